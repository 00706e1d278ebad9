package units

type Grams int

func Make(n int) Grams { return Grams(n) }

func (g Grams) Double() Grams { return Make(int(g) * 2) }
