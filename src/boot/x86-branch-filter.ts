/**
 * The x86 branch filter (BCJ) of .xz, decoding direction: the encoder has replaced the relative targets of CALL (E8)
 * and JMP (E9) by absolute ones, which repeat more often; this puts the relative ones back.
 *
 * What counts as a branch is defined by the reference encoder (The .xz File Format 1.2.0, 5.3.2): E8 or E9 whose
 * operand's highest byte is 00 or FF, unless one of the bytes shortly before looks like a branch itself and overlaps.
 */

const CALL_OR_JMP_MASK = 0xfe;
const CALL_OR_JMP = 0xe8;
const INSTRUCTION_SIZE = 5;
/** How far back another opcode byte matters. */
const HISTORY = 3;

/**
 * Opcode bytes seen at the three positions before this one are kept as bits: bit 0 for the one before, bit 2 for three
 * before. In these patterns the byte here may still be a branch…
 */
const MAY_BE_BRANCH = [true, true, true, false, true, false, false, false] as const;
/** …and this is the operand byte that the earlier one left ambiguous, counted from the highest. */
const AMBIGUOUS_BYTE = [0, 1, 2, 2, 3, 3, 3, 3] as const;

function isSignByte(byte: number): boolean {
  return byte === 0x00 || byte === 0xff;
}

/** Decodes `data`, the whole of a filtered block, in place. */
export function decodeX86Branches(data: Uint8Array): void {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const end = data.length - INSTRUCTION_SIZE;
  let previous = -1;
  let history = 0;
  for (let at = 0; at <= end; at++) {
    if ((data[at] & CALL_OR_JMP_MASK) !== CALL_OR_JMP) continue;
    const distance = at - previous;
    previous = at;
    history = distance > HISTORY ? 0 : (history << (distance - 1)) & 7;
    if (history !== 0) {
      const ambiguous = data[at + 4 - AMBIGUOUS_BYTE[history]];
      if (!MAY_BE_BRANCH[history] || isSignByte(ambiguous)) {
        history = (history << 1) | 1;
        continue;
      }
    }
    if (!isSignByte(data[at + 4])) {
      history = (history << 1) | 1;
      continue;
    }
    const target = relativeTarget(view.getUint32(at + 1, true), at + INSTRUCTION_SIZE, history);
    // 25 bits of the target are kept; the rest is its sign.
    view.setInt32(at + 1, (target << 7) >> 7, true);
    at += INSTRUCTION_SIZE - 1;
    previous = at;
    history = 0;
  }
}

/** Undoes the addition of the next instruction's address, as often as the encoder had to make it to stay unambiguous. */
function relativeTarget(absolute: number, next: number, history: number): number {
  for (;;) {
    const target = (absolute - next) | 0;
    if (history === 0) return target;
    const bits = AMBIGUOUS_BYTE[history] * 8;
    if (!isSignByte((target >>> (24 - bits)) & 0xff)) return target;
    absolute = target ^ (2 ** (32 - bits) - 1);
  }
}
