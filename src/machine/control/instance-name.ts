/** Names of instances: they are file names, and stand on status lines. */

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

export const NAME_SYNTAX = "letters, digits, `_`, `.` and `-`, at most 64, with a letter or digit first";

export function isInstanceName(text: string): boolean {
  return NAME.test(text);
}
