/** Opcode rows of the integer and data-movement part of MMX and SSE to SSE4.2, as SDM vol. 2 lists them. */
import { AES_OPCODES } from "./aes.js";
import type { Definition } from "./context.js";
import { crc32 } from "./crc32.js";
import { emms } from "./mmx.js";
import { type OpcodeRow, op } from "./opcode-table.js";
import * as cache from "./sse-cache.js";
import { SSE_FLOAT_OPCODES } from "./sse-float-opcodes.js";
import * as integer from "./sse-integer.js";
import { direct, directUnary, horizontalDwords, horizontalWords, mmxPaired } from "./sse-integer.js";
import * as moves from "./sse-moves.js";
import * as shifts from "./sse-shifts.js";
import * as shuffles from "./sse-shuffles.js";
import { interleave, signMask, widen } from "./sse-shuffles.js";
import * as strings from "./sse-strings.js";
import {
  binary,
  binaryImmediate,
  mmxBinary,
  mmxBinaryImmediate,
  mmxUnary,
  unary,
  unaryImmediate,
  type VectorBinary,
  type VectorUnary,
} from "./vector-operands.js";

/** The MMX and the XMM row of an instruction that computes the same on both. */
const both = (opcode: string, mnemonic: string, compute: VectorBinary): OpcodeRow[] => [
  op(`NP ${opcode}`, mnemonic, "Pq,Qq", mmxBinary(compute)),
  op(`66 ${opcode}`, mnemonic, "Vx,Wx", binary(compute)),
];
const bothUnary = (opcode: string, mnemonic: string, compute: VectorUnary): OpcodeRow[] => [
  op(`NP ${opcode}`, mnemonic, "Pq,Qq", mmxUnary(compute)),
  op(`66 ${opcode}`, mnemonic, "Vx,Wx", unary(compute)),
];
/** The same for an instruction that takes neighbours from both operands. */
const bothPaired = (opcode: string, mnemonic: string, compute: VectorBinary): OpcodeRow[] => [
  op(`NP ${opcode}`, mnemonic, "Pq,Qq", mmxBinary(mmxPaired(compute))),
  op(`66 ${opcode}`, mnemonic, "Vx,Wx", binary(compute)),
];
const bothInterleave = (
  opcode: string,
  mnemonic: string,
  width: 1 | 2 | 4,
  half: "low" | "high",
): OpcodeRow[] => [
  // The low forms read only 4 bytes of memory on MMX (SDM vol. 2, PUNPCKLBW).
  op(`NP ${opcode}`, mnemonic, half === "low" ? "Pq,Qd" : "Pq,Qq", mmxBinary(interleave(width, half, 8))),
  op(`66 ${opcode}`, mnemonic, "Vx,Wx", binary(interleave(width, half))),
];
const bothShift = (
  opcode: string,
  immediate: string,
  mnemonic: string,
  ...kind: Parameters<typeof shifts.shiftByVector>
): OpcodeRow[] => [
  ...both(opcode, mnemonic, shifts.shiftByVector(...kind)),
  op(`NP ${immediate}`, mnemonic, "Nq,Ib", shifts.mmxShiftByImmediate(...kind)),
  op(`66 ${immediate}`, mnemonic, "Ux,Ib", shifts.shiftByImmediate(...kind)),
];
const sse = (opcode: string, mnemonic: string, compute: VectorBinary): OpcodeRow =>
  op(opcode, mnemonic, "Vx,Wx", binary(compute));

const MOVES: readonly OpcodeRow[] = [
  op("NP 0F 10", "MOVUPS", "Vx,Wx", moves.moveUnaligned),
  op("66 0F 10", "MOVUPD", "Vx,Wx", moves.moveUnaligned),
  op("F3 0F 10", "MOVSS", "Vx,W4", moves.moveScalar(4)),
  op("F2 0F 10", "MOVSD", "Vx,W8", moves.moveScalar(8)),
  op("NP 0F 11", "MOVUPS", "Wx,Vx", moves.moveUnaligned),
  op("66 0F 11", "MOVUPD", "Wx,Vx", moves.moveUnaligned),
  op("F3 0F 11", "MOVSS", "W4,Vx", moves.moveScalar(4)),
  op("F2 0F 11", "MOVSD", "W8,Vx", moves.moveScalar(8)),
  op("NP 0F 12", "MOVLPS", "Vx,M8", moves.loadHalf(0)),
  op("NP 0F 12", "MOVHLPS", "Vx,Ux", binary(shuffles.fixedLanes(8, [3, 1]))),
  op("66 0F 12", "MOVLPD", "Vx,M8", moves.loadHalf(0)),
  op("F3 0F 12", "MOVSLDUP", "Vx,Wx", unary(shuffles.fixedLanesUnary(4, [0, 0, 2, 2]))),
  op("F2 0F 12", "MOVDDUP", "Vx,W8", moves.duplicateLow),
  op("NP 0F 13", "MOVLPS", "M8,Vx", moves.storeHalf(0)),
  op("66 0F 13", "MOVLPD", "M8,Vx", moves.storeHalf(0)),
  sse("NP 0F 14", "UNPCKLPS", interleave(4, "low")),
  sse("66 0F 14", "UNPCKLPD", interleave(8, "low")),
  sse("NP 0F 15", "UNPCKHPS", interleave(4, "high")),
  sse("66 0F 15", "UNPCKHPD", interleave(8, "high")),
  op("NP 0F 16", "MOVHPS", "Vx,M8", moves.loadHalf(1)),
  op("NP 0F 16", "MOVLHPS", "Vx,Ux", binary(shuffles.fixedLanes(8, [0, 2]))),
  op("66 0F 16", "MOVHPD", "Vx,M8", moves.loadHalf(1)),
  op("F3 0F 16", "MOVSHDUP", "Vx,Wx", unary(shuffles.fixedLanesUnary(4, [1, 1, 3, 3]))),
  op("NP 0F 17", "MOVHPS", "M8,Vx", moves.storeHalf(1)),
  op("66 0F 17", "MOVHPD", "M8,Vx", moves.storeHalf(1)),
  op("NP 0F 28", "MOVAPS", "Vx,Wx", moves.moveAligned),
  op("66 0F 28", "MOVAPD", "Vx,Wx", moves.moveAligned),
  op("NP 0F 29", "MOVAPS", "Wx,Vx", moves.moveAligned),
  op("66 0F 29", "MOVAPD", "Wx,Vx", moves.moveAligned),
  op("NP 0F 2B", "MOVNTPS", "Mx,Vx", moves.moveAligned),
  op("66 0F 2B", "MOVNTPD", "Mx,Vx", moves.moveAligned),
  op("NP 0F 50", "MOVMSKPS", "Gd,Ux", signMask("i32x4.bitmask")),
  op("66 0F 50", "MOVMSKPD", "Gd,Ux", signMask("i64x2.bitmask")),
  op("NP 0F 6E", "MOVD", "Pq,Ey", moves.mmxMoveFromInteger),
  op("66 0F 6E", "MOVD", "Vx,Ey", moves.moveFromInteger),
  op("NP 0F 6F", "MOVQ", "Pq,Qq", moves.mmxMove),
  op("66 0F 6F", "MOVDQA", "Vx,Wx", moves.moveAligned),
  op("F3 0F 6F", "MOVDQU", "Vx,Wx", moves.moveUnaligned),
  op("NP 0F 7E", "MOVD", "Ey,Pq", moves.mmxMoveToInteger),
  op("66 0F 7E", "MOVD", "Ey,Vx", moves.moveToInteger),
  op("F3 0F 7E", "MOVQ", "Vx,W8", moves.moveQuad),
  op("NP 0F 7F", "MOVQ", "Qq,Pq", moves.mmxMove),
  op("66 0F 7F", "MOVDQA", "Wx,Vx", moves.moveAligned),
  op("F3 0F 7F", "MOVDQU", "Wx,Vx", moves.moveUnaligned),
  op("NP 0F C3", "MOVNTI", "My,Gy", moves.moveInteger),
  op("66 0F D6", "MOVQ", "W8,Vx", moves.moveQuad),
  op("F3 0F D6", "MOVQ2DQ", "Vx,Nq", moves.moveFromMmx),
  op("F2 0F D6", "MOVDQ2Q", "Pq,Ux", moves.moveToMmx),
  op("NP 0F E7", "MOVNTQ", "M8,Pq", moves.mmxMove),
  op("66 0F E7", "MOVNTDQ", "Mx,Vx", moves.moveAligned),
  op("F2 0F F0", "LDDQU", "Vx,Mx", moves.moveUnaligned),
  op("66 0F 38 2A", "MOVNTDQA", "Vx,Mx", moves.moveAligned),
];

const SHUFFLES: readonly OpcodeRow[] = [
  ...bothInterleave("0F 60", "PUNPCKLBW", 1, "low"),
  ...bothInterleave("0F 61", "PUNPCKLWD", 2, "low"),
  ...bothInterleave("0F 62", "PUNPCKLDQ", 4, "low"),
  ...bothPaired("0F 63", "PACKSSWB", direct("i8x16.narrow_i16x8_s")),
  ...bothPaired("0F 67", "PACKUSWB", direct("i8x16.narrow_i16x8_u")),
  ...bothInterleave("0F 68", "PUNPCKHBW", 1, "high"),
  ...bothInterleave("0F 69", "PUNPCKHWD", 2, "high"),
  ...bothInterleave("0F 6A", "PUNPCKHDQ", 4, "high"),
  ...bothPaired("0F 6B", "PACKSSDW", direct("i16x8.narrow_i32x4_s")),
  sse("66 0F 6C", "PUNPCKLQDQ", interleave(8, "low")),
  sse("66 0F 6D", "PUNPCKHQDQ", interleave(8, "high")),
  op(
    "NP 0F 70",
    "PSHUFW",
    "Pq,Qq,Ib",
    mmxBinaryImmediate((_a, b, imm) => shuffles.shuffleLowWords(b, imm)),
  ),
  op("66 0F 70", "PSHUFD", "Vx,Wx,Ib", unaryImmediate(shuffles.shuffleDwords)),
  op("F3 0F 70", "PSHUFHW", "Vx,Wx,Ib", unaryImmediate(shuffles.shuffleHighWords)),
  op("F2 0F 70", "PSHUFLW", "Vx,Wx,Ib", unaryImmediate(shuffles.shuffleLowWords)),
  op("NP 0F C4", "PINSRW", "Pq,Ew,Ib", shuffles.mmxInsertWord),
  op("66 0F C4", "PINSRW", "Vx,Ew,Ib", shuffles.insert("i16x8")),
  op("NP 0F C5", "PEXTRW", "Gd,Nq,Ib", shuffles.mmxExtractWord),
  op("66 0F C5", "PEXTRW", "Gd,Ux,Ib", shuffles.extract("i16x8")),
  op("NP 0F C6", "SHUFPS", "Vx,Wx,Ib", binaryImmediate(shuffles.shuffleSingles)),
  op("66 0F C6", "SHUFPD", "Vx,Wx,Ib", binaryImmediate(shuffles.shuffleDoubles)),
  op("NP 0F D7", "PMOVMSKB", "Gd,Nq", shuffles.mmxSignMask),
  op("66 0F D7", "PMOVMSKB", "Gd,Ux", signMask("i8x16.bitmask")),
  op("NP 0F 38 00", "PSHUFB", "Pq,Qq", mmxBinary(shuffles.mmxShuffleBytes)),
  sse("66 0F 38 00", "PSHUFB", shuffles.shuffleBytes),
  op("66 0F 38 10", "PBLENDVB", "Vx,Wx", shuffles.blendVariable("i8x16")),
  op("66 0F 38 14", "BLENDVPS", "Vx,Wx", shuffles.blendVariable("i32x4")),
  op("66 0F 38 15", "BLENDVPD", "Vx,Wx", shuffles.blendVariable("i64x2")),
  ...(["s", "u"] as const).flatMap((sign) => {
    const first = sign === "s" ? 0x20 : 0x30;
    const row = (n: number, kind: string, operands: string, definition: Definition) =>
      op(
        `66 0F 38 ${(first + n).toString(16)}`,
        `PMOV${sign === "s" ? "S" : "Z"}X${kind}`,
        operands,
        definition,
      );
    const toWord = `i16x8.extend_low_i8x16_${sign}` as const;
    const toDword = `i32x4.extend_low_i16x8_${sign}` as const;
    const toQword = `i64x2.extend_low_i32x4_${sign}` as const;
    return [
      row(0, "BW", "Vx,W8", unary(widen(toWord))),
      row(1, "BD", "Vx,W4", unary(widen(toWord, toDword))),
      row(2, "BQ", "Vx,W2", unary(widen(toWord, toDword, toQword))),
      row(3, "WD", "Vx,W8", unary(widen(toDword))),
      row(4, "WQ", "Vx,W4", unary(widen(toDword, toQword))),
      row(5, "DQ", "Vx,W8", unary(widen(toQword))),
    ];
  }),
  sse("66 0F 38 2B", "PACKUSDW", direct("i16x8.narrow_i32x4_u")),
  op("66 0F 3A 0C", "BLENDPS", "Vx,Wx,Ib", binaryImmediate(shuffles.blendSingles)),
  op("66 0F 3A 0D", "BLENDPD", "Vx,Wx,Ib", binaryImmediate(shuffles.blendDoubles)),
  op("66 0F 3A 0E", "PBLENDW", "Vx,Wx,Ib", binaryImmediate(shuffles.blendWords)),
  op("NP 0F 3A 0F", "PALIGNR", "Pq,Qq,Ib", shifts.mmxAlignRight),
  op("66 0F 3A 0F", "PALIGNR", "Vx,Wx,Ib", shifts.alignRight),
  op("66 0F 3A 14", "PEXTRB", "Rd,Vx,Ib", shuffles.extract("i8x16")),
  op("66 0F 3A 14", "PEXTRB", "Mb,Vx,Ib", shuffles.extract("i8x16")),
  op("66 0F 3A 15", "PEXTRW", "Rd,Vx,Ib", shuffles.extract("i16x8")),
  op("66 0F 3A 15", "PEXTRW", "Mw,Vx,Ib", shuffles.extract("i16x8")),
  op("66 0F 3A 16", "PEXTRD", "Ey,Vx,Ib", shuffles.extractInteger),
  op("66 0F 3A 17", "EXTRACTPS", "Ed,Vx,Ib", shuffles.extract("i32x4")),
  op("66 0F 3A 20", "PINSRB", "Vx,Rd,Ib", shuffles.insert("i8x16")),
  op("66 0F 3A 20", "PINSRB", "Vx,Mb,Ib", shuffles.insert("i8x16")),
  op("66 0F 3A 21", "INSERTPS", "Vx,W4,Ib", shuffles.insertSingle),
  op("66 0F 3A 22", "PINSRD", "Vx,Ey,Ib", shuffles.insertInteger),
];

const SHIFTS: readonly OpcodeRow[] = [
  ...bothShift("0F D1", "0F 71 /2", "PSRLW", "i16x8", "shr_u"),
  ...bothShift("0F D2", "0F 72 /2", "PSRLD", "i32x4", "shr_u"),
  ...bothShift("0F D3", "0F 73 /2", "PSRLQ", "i64x2", "shr_u"),
  ...bothShift("0F E1", "0F 71 /4", "PSRAW", "i16x8", "shr_s"),
  ...bothShift("0F E2", "0F 72 /4", "PSRAD", "i32x4", "shr_s"),
  ...bothShift("0F F1", "0F 71 /6", "PSLLW", "i16x8", "shl"),
  ...bothShift("0F F2", "0F 72 /6", "PSLLD", "i32x4", "shl"),
  ...bothShift("0F F3", "0F 73 /6", "PSLLQ", "i64x2", "shl"),
  op("66 0F 73 /3", "PSRLDQ", "Ux,Ib", shifts.shiftBytes("right")),
  op("66 0F 73 /7", "PSLLDQ", "Ux,Ib", shifts.shiftBytes("left")),
];

const ARITHMETIC: readonly OpcodeRow[] = [
  ...both("0F 64", "PCMPGTB", direct("i8x16.gt_s")),
  ...both("0F 65", "PCMPGTW", direct("i16x8.gt_s")),
  ...both("0F 66", "PCMPGTD", direct("i32x4.gt_s")),
  ...both("0F 74", "PCMPEQB", direct("i8x16.eq")),
  ...both("0F 75", "PCMPEQW", direct("i16x8.eq")),
  ...both("0F 76", "PCMPEQD", direct("i32x4.eq")),
  ...both("0F D4", "PADDQ", direct("i64x2.add")),
  ...both("0F D5", "PMULLW", direct("i16x8.mul")),
  ...both("0F D8", "PSUBUSB", direct("i8x16.sub_sat_u")),
  ...both("0F D9", "PSUBUSW", direct("i16x8.sub_sat_u")),
  ...both("0F DA", "PMINUB", direct("i8x16.min_u")),
  ...both("0F DB", "PAND", direct("v128.and")),
  ...both("0F DC", "PADDUSB", direct("i8x16.add_sat_u")),
  ...both("0F DD", "PADDUSW", direct("i16x8.add_sat_u")),
  ...both("0F DE", "PMAXUB", direct("i8x16.max_u")),
  ...both("0F DF", "PANDN", integer.andNot),
  ...both("0F E0", "PAVGB", direct("i8x16.avgr_u")),
  ...both("0F E3", "PAVGW", direct("i16x8.avgr_u")),
  ...both("0F E4", "PMULHUW", integer.multiplyHigh("u")),
  ...both("0F E5", "PMULHW", integer.multiplyHigh("s")),
  ...both("0F E8", "PSUBSB", direct("i8x16.sub_sat_s")),
  ...both("0F E9", "PSUBSW", direct("i16x8.sub_sat_s")),
  ...both("0F EA", "PMINSW", direct("i16x8.min_s")),
  ...both("0F EB", "POR", direct("v128.or")),
  ...both("0F EC", "PADDSB", direct("i8x16.add_sat_s")),
  ...both("0F ED", "PADDSW", direct("i16x8.add_sat_s")),
  ...both("0F EE", "PMAXSW", direct("i16x8.max_s")),
  ...both("0F EF", "PXOR", direct("v128.xor")),
  ...both("0F F4", "PMULUDQ", integer.multiplyEven("u")),
  ...both("0F F5", "PMADDWD", direct("i32x4.dot_i16x8_s")),
  ...both("0F F6", "PSADBW", integer.sumOfDifferences),
  ...both("0F F8", "PSUBB", direct("i8x16.sub")),
  ...both("0F F9", "PSUBW", direct("i16x8.sub")),
  ...both("0F FA", "PSUBD", direct("i32x4.sub")),
  ...both("0F FB", "PSUBQ", direct("i64x2.sub")),
  ...both("0F FC", "PADDB", direct("i8x16.add")),
  ...both("0F FD", "PADDW", direct("i16x8.add")),
  ...both("0F FE", "PADDD", direct("i32x4.add")),
  ...bothPaired("0F 38 01", "PHADDW", horizontalWords("i16x8.add")),
  ...bothPaired("0F 38 02", "PHADDD", horizontalDwords("i32x4.add")),
  ...bothPaired("0F 38 03", "PHADDSW", horizontalWords("i16x8.add_sat_s")),
  ...both("0F 38 04", "PMADDUBSW", integer.multiplyAddBytes),
  ...bothPaired("0F 38 05", "PHSUBW", horizontalWords("i16x8.sub")),
  ...bothPaired("0F 38 06", "PHSUBD", horizontalDwords("i32x4.sub")),
  ...bothPaired("0F 38 07", "PHSUBSW", horizontalWords("i16x8.sub_sat_s")),
  ...both("0F 38 08", "PSIGNB", integer.applySign("i8x16")),
  ...both("0F 38 09", "PSIGNW", integer.applySign("i16x8")),
  ...both("0F 38 0A", "PSIGND", integer.applySign("i32x4")),
  ...both("0F 38 0B", "PMULHRSW", integer.multiplyHighRounded),
  op("66 0F 38 17", "PTEST", "Vx,Wx", integer.ptest),
  ...bothUnary("0F 38 1C", "PABSB", directUnary("i8x16.abs")),
  ...bothUnary("0F 38 1D", "PABSW", directUnary("i16x8.abs")),
  ...bothUnary("0F 38 1E", "PABSD", directUnary("i32x4.abs")),
  sse("66 0F 38 28", "PMULDQ", integer.multiplyEven("s")),
  sse("66 0F 38 29", "PCMPEQQ", direct("i64x2.eq")),
  sse("66 0F 38 37", "PCMPGTQ", direct("i64x2.gt_s")),
  sse("66 0F 38 38", "PMINSB", direct("i8x16.min_s")),
  sse("66 0F 38 39", "PMINSD", direct("i32x4.min_s")),
  sse("66 0F 38 3A", "PMINUW", direct("i16x8.min_u")),
  sse("66 0F 38 3B", "PMINUD", direct("i32x4.min_u")),
  sse("66 0F 38 3C", "PMAXSB", direct("i8x16.max_s")),
  sse("66 0F 38 3D", "PMAXSD", direct("i32x4.max_s")),
  sse("66 0F 38 3E", "PMAXUW", direct("i16x8.max_u")),
  sse("66 0F 38 3F", "PMAXUD", direct("i32x4.max_u")),
  sse("66 0F 38 40", "PMULLD", direct("i32x4.mul")),
  op("66 0F 38 41", "PHMINPOSUW", "Vx,Wx", unary(integer.minimumPosition)),
  op("66 0F 3A 42", "MPSADBW", "Vx,Wx,Ib", binaryImmediate(integer.multipleSumsOfDifferences)),
  sse("NP 0F 54", "ANDPS", direct("v128.and")),
  sse("66 0F 54", "ANDPD", direct("v128.and")),
  sse("NP 0F 55", "ANDNPS", integer.andNot),
  sse("66 0F 55", "ANDNPD", integer.andNot),
  sse("NP 0F 56", "ORPS", direct("v128.or")),
  sse("66 0F 56", "ORPD", direct("v128.or")),
  sse("NP 0F 57", "XORPS", direct("v128.xor")),
  sse("66 0F 57", "XORPD", direct("v128.xor")),
];

const STRINGS: readonly OpcodeRow[] = [
  // REX.W makes the lengths 64 bits wide.
  op("66 0F 3A 60", "PCMPESTRM", "Vx,Wx,Ib", strings.pcmpestrm, { sized: true }),
  op("66 0F 3A 61", "PCMPESTRI", "Vx,Wx,Ib", strings.pcmpestri, { sized: true }),
  op("66 0F 3A 62", "PCMPISTRM", "Vx,Wx,Ib", strings.pcmpistrm),
  op("66 0F 3A 63", "PCMPISTRI", "Vx,Wx,Ib", strings.pcmpistri),
  op("F2 0F 38 F0", "CRC32", "Gy,Eb", crc32),
  op("F2 0F 38 F1", "CRC32", "Gy,Ev", crc32),
];

const CONTROL: readonly OpcodeRow[] = [
  op("NP 0F 77", "EMMS", "", emms),
  op("NP 0F AE /2 mem", "LDMXCSR", "Md", cache.ldmxcsr),
  op("NP 0F AE /3 mem", "STMXCSR", "Md", cache.stmxcsr),
  op("NP 0F AE /7 mem", "CLFLUSH", "Mb", cache.clflush),
  op("NP 0F AE /5 reg", "LFENCE", "", cache.fence),
  op("NP 0F AE /6 reg", "MFENCE", "", cache.fence),
  op("NP 0F AE /7 reg", "SFENCE", "", cache.fence),
  op("NP 0F F7", "MASKMOVQ", "Pq,Nq", cache.mmxMaskedStore, { addressed: true, modal: true }),
  op("66 0F F7", "MASKMOVDQU", "Vx,Ux", cache.maskedStore, { addressed: true, modal: true }),
];

export const SSE_OPCODES: readonly OpcodeRow[] = [
  ...SSE_FLOAT_OPCODES,
  ...MOVES,
  ...SHUFFLES,
  ...SHIFTS,
  ...ARITHMETIC,
  ...STRINGS,
  ...AES_OPCODES,
  ...CONTROL,
];
