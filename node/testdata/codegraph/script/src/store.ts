import { Grams, LIMIT } from "./units";
import type { Thing } from "./types";
import * as fs from "node:fs";

/** Keeps things. */
export class Store extends Base implements Thing {
  private grams: Grams = new Grams(1);

  constructor(private scale: Scale) {
    super();
  }

  total(): Grams {
    this.check(LIMIT);
    fs.readFileSync("x");
    return this.scale.read(this.grams).double();
  }

  heavy = () => this.total();
}

class Base {
  check(limit: number) {
    return limit;
  }
}

class Scale {
  read(grams: Grams): Grams {
    return grams;
  }
}

export default Store;
