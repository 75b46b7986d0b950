/** What the lab prints now and then to tell that it has not come to a halt. */
export const ALIVE = "[lab is alive]";
export const ALIVE_MILLISECONDS = 10_000;
