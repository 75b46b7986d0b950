/**
 * Set-ups by mnemonic: what random registers would rarely or never meet by themselves (a division that does not fault, a
 * compare-and-exchange that succeeds), and what must not be left to chance (return addresses, string pointers).
 */
import type { Draft } from "./draft.js";
import type { Hint } from "./hint.js";
import { CONTROL_HINTS } from "./hints-control.js";
import { FLOAT_HINTS } from "./hints-float.js";
import { INTEGER_HINTS } from "./hints-integer.js";
import { STRING_HINTS } from "./hints-string.js";
import { vector } from "./values.js";

export const HINTS: readonly Hint[] = [...STRING_HINTS, ...INTEGER_HINTS, ...CONTROL_HINTS, ...FLOAT_HINTS];

/** Sixteen bytes for an operand of a vector instruction, of the elements that its mnemonic speaks of. */
export function vectorOperand(d: Draft): Uint8Array {
  return vector(d.random, vectorKind(d.form.row.mnemonic));
}

export function vectorKind(mnemonic: string): "integer" | "f32" | "f64" | undefined {
  if (/^CVTT?[PS]S2/.test(mnemonic)) return "f32";
  if (/^CVTT?[PS]D2/.test(mnemonic)) return "f64";
  if (/^P|^MOV[DQ]|^CVT/.test(mnemonic)) return "integer";
  if (/[PS]S$/.test(mnemonic)) return "f32";
  if (/[PS]D$/.test(mnemonic)) return "f64";
  return undefined;
}
