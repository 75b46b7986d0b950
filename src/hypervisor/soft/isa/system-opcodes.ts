/** Opcode table of system instructions, I/O and far control transfer (SDM vol. 1, 7.3.8, 7.3.10; vol. 3A, 2.8). */
import { Seg } from "../vcpu-state.js";
import * as c from "./control.js";
import { type OpcodeOptions, type OpcodeRow, op } from "./opcode-table.js";
import * as y from "./system.js";

const ENDS: OpcodeOptions = { ends: true };
const SIZED: OpcodeOptions = { sized: true, modal: true };
const LEGACY: OpcodeOptions = { only: "legacy" };

const POPS: readonly [string, number, OpcodeOptions][] = [
  ["07", Seg.ES, LEGACY],
  ["17", Seg.SS, LEGACY],
  ["1F", Seg.DS, LEGACY],
  ["0F A1", Seg.FS, {}],
  ["0F A9", Seg.GS, {}],
];

const FAR_POINTERS: readonly [string, string, number, OpcodeOptions][] = [
  ["C4", "LES", Seg.ES, LEGACY],
  ["C5", "LDS", Seg.DS, LEGACY],
  ["0F B2", "LSS", Seg.SS, {}],
  ["0F B4", "LFS", Seg.FS, {}],
  ["0F B5", "LGS", Seg.GS, {}],
];

export const SYSTEM_OPCODES: readonly OpcodeRow[] = [
  ...POPS.map(([encoding, seg, options]) =>
    op(encoding, "POP", "", y.popSegment, { ...SIZED, operand64: "default", ...options, args: [seg] }),
  ),
  ...FAR_POINTERS.map(([encoding, name, seg, options]) =>
    op(encoding, name, "Gv,Mp", y.loadFarPointer, { ...options, args: [seg] }),
  ),
  op("62", "BOUND", "Gv,Ma", y.bound, LEGACY),
  op("63", "ARPL", "Ew,Gw", y.arpl, { ...LEGACY, modal: true, sized: true }),
  op("8E", "MOV", "Sw,Ew", y.movToSegment),
  op("9A", "CALL", "A", y.farDirect("farCall"), { ...LEGACY, ...ENDS, sized: true }),
  op("EA", "JMP", "A", y.farDirect("farJump"), { ...LEGACY, ...ENDS, sized: true }),
  op("FF /3", "CALL", "Mp", y.farIndirect("farCall"), { ...ENDS, sized: true }),
  op("FF /5", "JMP", "Mp", y.farIndirect("farJump"), { ...ENDS, sized: true }),
  op("CA", "RET", "Iw", y.farReturn, { ...ENDS, sized: true }),
  op("CB", "RET", "", y.farReturn, { ...ENDS, sized: true }),
  op("C8", "ENTER", "I3", y.systemImmediate("enter"), { ...SIZED, operand64: "default" }),
  op("CC", "INT3", "", y.systemOperation("int3"), ENDS),
  op("CD", "INT", "Ib", y.interrupt, { ...ENDS, modal: true }),
  op("CE", "INTO", "", y.systemOperation("into"), LEGACY),
  op("CF", "IRET", "", y.systemOperation("iret"), { ...ENDS, sized: true }),
  op("F1", "INT1", "", y.systemOperation("int1"), ENDS),
  op("F4", "HLT", "", y.privileged("hlt")),
  op("FA", "CLI", "", c.cli, { modal: true }),
  op("FB", "STI", "", c.sti, { modal: true }),
  op("F3 0F 1E =FA", "ENDBR64", "", () => {}),

  // Ports
  op("E4", "IN", "AL,Ib", y.portIn),
  op("E5", "IN", "eAX,Ib", y.portIn, { sized: true }),
  op("E6", "OUT", "Ib,AL", y.portOut),
  op("E7", "OUT", "Ib,eAX", y.portOut, { sized: true }),
  op("EC", "IN", "AL,DX", y.portIn),
  op("ED", "IN", "eAX,DX", y.portIn, { sized: true }),
  op("EE", "OUT", "DX,AL", y.portOut),
  op("EF", "OUT", "DX,eAX", y.portOut, { sized: true }),
  op("6C", "INS", "Yb", y.systemOperation("ins"), { rep: true, addressed: true }),
  op("6D", "INS", "Yv", y.systemOperation("ins"), { rep: true, addressed: true }),
  op("6E", "OUTS", "Xb", y.systemOperation("outs"), { rep: true, addressed: true }),
  op("6F", "OUTS", "Xv", y.systemOperation("outs"), { rep: true, addressed: true }),

  // Groups 6 and 7
  op("0F 00 /0", "SLDT", "Ev", y.storeSelector, { modal: true, args: [Seg.LDTR] }),
  op("0F 00 /1", "STR", "Ev", y.storeSelector, { modal: true, args: [Seg.TR] }),
  op("0F 00 /2", "LLDT", "Ew", y.loadSystemSegment("lldt"), { modal: true }),
  op("0F 00 /3", "LTR", "Ew", y.loadSystemSegment("ltr"), { modal: true }),
  op("0F 00 /4", "VERR", "Ew", y.probeSelector("verr", 0), { modal: true }),
  op("0F 00 /5", "VERW", "Ew", y.probeSelector("verw", 0), { modal: true }),
  op("0F 01 /0 mem", "SGDT", "Ms", y.sgdt, { modal: true }),
  op("0F 01 /1 mem", "SIDT", "Ms", y.sidt, { modal: true }),
  op("0F 01 /2 mem", "LGDT", "Ms", y.lgdt, { ...SIZED, operand64: "force" }),
  op("0F 01 /3 mem", "LIDT", "Ms", y.lidt, { ...SIZED, operand64: "force" }),
  op("0F 01 /4", "SMSW", "Ev", y.smsw, { modal: true }),
  op("0F 01 /6", "LMSW", "Ew", y.lmsw),
  op("0F 01 /7 mem", "INVLPG", "Mb", y.privilegedAddress("invlpg")),
  op("0F 01 =C1", "VMCALL", "", y.systemOperation("vmcall")),
  op("0F 01 =D9", "VMMCALL", "", y.systemOperation("vmcall")),
  op("0F 01 =C8", "MONITOR", "", y.systemOperation("monitor"), { addressed: true }),
  op("0F 01 =C9", "MWAIT", "", y.systemOperation("mwait")),
  op("0F 01 =CA", "CLAC", "", c.clac),
  op("0F 01 =CB", "STAC", "", c.stac),
  // Translated code sees every write to memory, so there is nothing to serialize.
  op("NP 0F 01 =E8", "SERIALIZE", "", () => {}),
  op("0F 01 =F8", "SWAPGS", "", c.swapgs, { only: "long" }),
  op("0F 02", "LAR", "Gv,Ew", y.probeSelector("lar", 1), { modal: true }),
  op("0F 03", "LSL", "Gv,Ew", y.probeSelector("lsl", 1), { modal: true }),
  op("0F 05", "SYSCALL", "", y.syscall, ENDS),
  op("0F 07", "SYSRET", "", y.systemOperation("sysret"), { ...ENDS, sized: true }),
  op("0F 34", "SYSENTER", "", y.systemOperation("sysenter"), ENDS),
  op("0F 35", "SYSEXIT", "", y.systemOperation("sysexit"), { ...ENDS, sized: true }),
  op("0F 06", "CLTS", "", y.clts),
  op("0F 08", "INVD", "", y.privileged("writeBackCaches")),
  op("0F 09", "WBINVD", "", y.privileged("writeBackCaches")),
  op("0F 20", "MOV", "Ry,C", y.movFromCr, { operand64: "force", modal: true }),
  op("0F 21", "MOV", "Ry,D", y.movFromDr, { operand64: "force", modal: true }),
  op("0F 22", "MOV", "C,Ry", y.movToCr, { operand64: "force", modal: true }),
  op("0F 23", "MOV", "D,Ry", y.movToDr, { operand64: "force", modal: true }),
  op("0F 30", "WRMSR", "", y.privileged("wrmsr")),
  op("0F 32", "RDMSR", "", y.privileged("rdmsr")),
  op("0F 33", "RDPMC", "", y.systemOperation("rdpmc")),
  op("0F A2", "CPUID", "", y.systemOperation("cpuid")),
  op("66 0F 38 82", "INVPCID", "Gy,M", y.invpcid, { operand64: "force", modal: true }),
  op("NP 0F C7 /6 reg", "RDRAND", "Rv", y.random("rdrand")),
  op("66 0F C7 /6 reg", "RDRAND", "Rv", y.random("rdrand")),
  op("NP 0F C7 /7 reg", "RDSEED", "Rv", y.random("rdseed")),
  op("66 0F C7 /7 reg", "RDSEED", "Rv", y.random("rdseed")),
  op("F3 0F AE /0 reg", "RDFSBASE", "Ry", c.readSegmentBase, { only: "long", args: [Seg.FS] }),
  op("F3 0F AE /1 reg", "RDGSBASE", "Ry", c.readSegmentBase, { only: "long", args: [Seg.GS] }),
  op("F3 0F AE /2 reg", "WRFSBASE", "Ry", c.writeSegmentBase, { only: "long", args: [Seg.FS] }),
  op("F3 0F AE /3 reg", "WRGSBASE", "Ry", c.writeSegmentBase, { only: "long", args: [Seg.GS] }),
];
