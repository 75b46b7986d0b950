/** `npm run build`. */
import { build } from "./lib/prepare.mjs";

await build();
