/** Opcode rows of the floating-point part of SSE to SSE4.1, as SDM vol. 2 lists them. */
import { type OpcodeRow, op } from "./opcode-table.js";
import { reciprocal, reciprocalSquareRoot, scalarApproximation } from "./sse-approximation.js";
import * as compare from "./sse-compare.js";
import * as convert from "./sse-convert.js";
import { dotProduct } from "./sse-dot-product.js";
import * as float from "./sse-float.js";
import { DOUBLE, SINGLE } from "./sse-float-format.js";
import { round } from "./sse-round.js";
import { unary } from "./vector-operands.js";

const FORMATS = [
  { format: SINGLE, letter: "S", packed: "NP", scalar: "F3", source: "W4" },
  { format: DOUBLE, letter: "D", packed: "66", scalar: "F2", source: "W8" },
] as const;

export const SSE_FLOAT_OPCODES: readonly OpcodeRow[] = FORMATS.flatMap(
  ({ format, letter, packed, scalar, source }) => {
    const arithmetic = (opcode: string, name: "add" | "sub" | "mul" | "div") => [
      op(
        `${packed} ${opcode}`,
        `${name.toUpperCase()}P${letter}`,
        "Vx,Wx",
        float.packedArithmetic(format, name),
      ),
      op(
        `${scalar} ${opcode}`,
        `${name.toUpperCase()}S${letter}`,
        `Vx,${source}`,
        float.scalarArithmetic(format, name),
      ),
    ];
    const minMax = (opcode: string, name: "min" | "max") => [
      op(
        `${packed} ${opcode}`,
        `${name.toUpperCase()}P${letter}`,
        "Vx,Wx",
        compare.packedMinMax(format, name),
      ),
      op(
        `${scalar} ${opcode}`,
        `${name.toUpperCase()}S${letter}`,
        `Vx,${source}`,
        compare.scalarMinMax(format, name),
      ),
    ];
    return [
      op(`${scalar} 0F 2A`, `CVTSI2S${letter}`, "Vx,Ey", convert.integerToScalar(format)),
      op(
        `${packed} 0F 2C`,
        `CVTTP${letter}2PI`,
        format === SINGLE ? "Pq,W8" : "Pq,Wx",
        convert.packedToMmx(format, true),
      ),
      op(
        `${packed} 0F 2D`,
        `CVTP${letter}2PI`,
        format === SINGLE ? "Pq,W8" : "Pq,Wx",
        convert.packedToMmx(format, false),
      ),
      op(`${scalar} 0F 2C`, `CVTTS${letter}2SI`, `Gy,${source}`, convert.scalarToInteger(format, true)),
      op(`${scalar} 0F 2D`, `CVTS${letter}2SI`, `Gy,${source}`, convert.scalarToInteger(format, false)),
      op(`${packed} 0F 2E`, `UCOMIS${letter}`, `Vx,${source}`, compare.orderedCompare(format, false)),
      op(`${packed} 0F 2F`, `COMIS${letter}`, `Vx,${source}`, compare.orderedCompare(format, true)),
      op(`${packed} 0F 51`, `SQRTP${letter}`, "Vx,Wx", float.packedSquareRoot(format)),
      op(`${scalar} 0F 51`, `SQRTS${letter}`, `Vx,${source}`, float.scalarSquareRoot(format)),
      ...arithmetic("0F 58", "add"),
      ...arithmetic("0F 59", "mul"),
      ...arithmetic("0F 5C", "sub"),
      ...minMax("0F 5D", "min"),
      ...arithmetic("0F 5E", "div"),
      ...minMax("0F 5F", "max"),
      op(`${packed} 0F C2`, `CMPP${letter}`, "Vx,Wx,Ib", compare.packedCompare(format)),
      op(`${scalar} 0F C2`, `CMPS${letter}`, `Vx,${source},Ib`, compare.scalarCompare(format)),
    ];
  },
).concat([
  op("NP 0F 2A", "CVTPI2PS", "Vx,Qq", convert.mmxToSingles),
  op("66 0F 2A", "CVTPI2PD", "Vx,Qq", convert.mmxToDoubles),
  op("NP 0F 5A", "CVTPS2PD", "Vx,W8", convert.singlesToDoubles),
  op("66 0F 5A", "CVTPD2PS", "Vx,Wx", convert.doublesToSingles),
  op("F3 0F 5A", "CVTSS2SD", "Vx,W4", convert.singleToDouble),
  op("F2 0F 5A", "CVTSD2SS", "Vx,W8", convert.doubleToSingle),
  op("NP 0F 5B", "CVTDQ2PS", "Vx,Wx", convert.dwordsToSingles),
  op("66 0F 5B", "CVTPS2DQ", "Vx,Wx", convert.packedToDwords(SINGLE, false)),
  op("F3 0F 5B", "CVTTPS2DQ", "Vx,Wx", convert.packedToDwords(SINGLE, true)),
  op("66 0F E6", "CVTTPD2DQ", "Vx,Wx", convert.packedToDwords(DOUBLE, true)),
  op("F3 0F E6", "CVTDQ2PD", "Vx,W8", unary(convert.dwordsToDoubles)),
  op("F2 0F E6", "CVTPD2DQ", "Vx,Wx", convert.packedToDwords(DOUBLE, false)),
  op("NP 0F 52", "RSQRTPS", "Vx,Wx", unary(reciprocalSquareRoot)),
  op("F3 0F 52", "RSQRTSS", "Vx,W4", scalarApproximation(reciprocalSquareRoot)),
  op("NP 0F 53", "RCPPS", "Vx,Wx", unary(reciprocal)),
  op("F3 0F 53", "RCPSS", "Vx,W4", scalarApproximation(reciprocal)),
  op("66 0F 7C", "HADDPD", "Vx,Wx", float.horizontal(DOUBLE, "add")),
  op("F2 0F 7C", "HADDPS", "Vx,Wx", float.horizontal(SINGLE, "add")),
  op("66 0F 7D", "HSUBPD", "Vx,Wx", float.horizontal(DOUBLE, "sub")),
  op("F2 0F 7D", "HSUBPS", "Vx,Wx", float.horizontal(SINGLE, "sub")),
  op("66 0F D0", "ADDSUBPD", "Vx,Wx", float.addSubtract(DOUBLE)),
  op("F2 0F D0", "ADDSUBPS", "Vx,Wx", float.addSubtract(SINGLE)),
  op("66 0F 3A 08", "ROUNDPS", "Vx,Wx,Ib", round(SINGLE, false)),
  op("66 0F 3A 09", "ROUNDPD", "Vx,Wx,Ib", round(DOUBLE, false)),
  op("66 0F 3A 0A", "ROUNDSS", "Vx,W4,Ib", round(SINGLE, true)),
  op("66 0F 3A 0B", "ROUNDSD", "Vx,W8,Ib", round(DOUBLE, true)),
  op("66 0F 3A 40", "DPPS", "Vx,Wx,Ib", dotProduct(SINGLE)),
  op("66 0F 3A 41", "DPPD", "Vx,Wx,Ib", dotProduct(DOUBLE)),
]);
