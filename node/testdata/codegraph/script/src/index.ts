export { convert as toGrams } from "./units";
export * from "./store";
