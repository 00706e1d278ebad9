const LIMIT = 20;

class Grams {
  constructor(amount) {
    this.amount = amount;
  }

  double() {
    return new Grams(this.amount * 2);
  }
}

const convert = (text) => new Grams(Number(text));

module.exports = { LIMIT, Grams, convert };
