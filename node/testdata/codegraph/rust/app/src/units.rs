pub trait Unit {
    fn amount(&self) -> u32;

    fn twice(&self) -> Grams {
        Grams(self.amount() * 2)
    }
}

pub struct Grams(pub u32);

impl Unit for Grams {
    fn amount(&self) -> u32 {
        self.0
    }
}

pub fn parse(text: &str) -> Option<Grams> {
    text.parse().ok().map(Grams)
}
