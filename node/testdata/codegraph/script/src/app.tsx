import Shop, { Store } from "./store";
import { toGrams } from "./index";
const units = require("./units");
const { convert: other } = require("./units");

export function App(props: { store: Store }) {
  const shop = new Shop(null);
  shop.total();
  toGrams("1");
  units.convert("2");
  other("3");
  return <Row label={describe(shop)} />;
}

function Row({ label }: { label: string }) {
  return <b>{label}</b>;
}

const describe = (shop: Store): string => shop.heavy().toString();
