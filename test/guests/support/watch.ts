/** Words that the watchdog of guests on KVM shares: beats, and the number of the machine whose guest runs, or NOTHING. */
export const Watch = { BEATS: 0, RUNNING: 1, NOTHING: -1 } as const;
