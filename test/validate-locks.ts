/** `npm test` has every test's process load this first: the order in which locks are taken is checked in all of them. */
import { LockOrder } from "../src/memory/lock-order.js";
import { observeLocks } from "../src/memory/mutex.js";

observeLocks(new LockOrder());
