/**
 * x87 and SSE state in an XSAVE area (SDM vol. 1, 13.4; the legacy region is FXSAVE's, 10.5.1). KVM_GET_FPU has no MXCSR, so
 * the seam's FPU group is made of this.
 */
import type { Fpu } from "../seam.js";

const At = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  FOP: 6,
  FIP: 8,
  FDP: 16,
  MXCSR: 24,
  ST: 32,
  XMM: 160,
  XSTATE_BV: 512,
} as const;
const ST_BYTES = 8 * 16;
const XMM_BYTES = 16 * 16;
/** XSTATE_BV: x87 and SSE are not in their initial state. */
const X87_AND_SSE = 3n;

const viewOf = (area: Uint8Array) => new DataView(area.buffer, area.byteOffset, area.byteLength);

export function readFpu(area: Uint8Array): Fpu {
  const view = viewOf(area);
  return {
    fpr: area.slice(At.ST, At.ST + ST_BYTES),
    fcw: view.getUint16(At.FCW, true),
    fsw: view.getUint16(At.FSW, true),
    ftwx: view.getUint8(At.FTW),
    lastOpcode: view.getUint16(At.FOP, true),
    lastIp: view.getBigUint64(At.FIP, true),
    lastDp: view.getBigUint64(At.FDP, true),
    xmm: area.slice(At.XMM, At.XMM + XMM_BYTES),
    mxcsr: view.getUint32(At.MXCSR, true),
  };
}

/** Put `fpu` into `area`; the other components stay. */
export function writeFpu(area: Uint8Array, fpu: Fpu): void {
  const view = viewOf(area);
  area.set(fpu.fpr.subarray(0, ST_BYTES), At.ST);
  view.setUint16(At.FCW, fpu.fcw, true);
  view.setUint16(At.FSW, fpu.fsw, true);
  view.setUint16(At.FTW, fpu.ftwx, true);
  view.setUint16(At.FOP, fpu.lastOpcode, true);
  view.setBigUint64(At.FIP, fpu.lastIp, true);
  view.setBigUint64(At.FDP, fpu.lastDp, true);
  area.set(fpu.xmm.subarray(0, XMM_BYTES), At.XMM);
  view.setUint32(At.MXCSR, fpu.mxcsr, true);
  view.setBigUint64(At.XSTATE_BV, view.getBigUint64(At.XSTATE_BV, true) | X87_AND_SSE, true);
}
