export interface Thing {
  total(): unknown;
}

export type Things = Thing[];

export enum Kind {
  Light,
  Heavy,
}

export namespace shapes {
  export function draw(thing: Thing) {
    return thing.total();
  }
}
