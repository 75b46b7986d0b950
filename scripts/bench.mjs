/** `npm run bench`. Arguments after `npm run bench --` are the bench's own. */
import { build, install } from "./lib/prepare.mjs";

install();
await build();
await import("../dist/bench/main.js");
