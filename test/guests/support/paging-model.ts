/** What paging allows, written from SDM vol. 3A, chapter 4, to compare a processor with. */

export interface PagingControl {
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
  readonly ac: boolean;
  readonly nxe: boolean;
}

export interface Access {
  readonly kind: "read" | "write" | "fetch";
  readonly user: boolean;
}

/** An entry as the walk meets it, from the top on; `leaf` ends it. */
export interface Step {
  readonly entry: bigint;
  /** Bits that have to be zero, but for XD. */
  readonly reserved: bigint;
  readonly leaf: boolean;
  /** The entry has no permissions (PDPTE of PAE paging). */
  readonly plain?: boolean;
}

const P = 1n;
const W = 2n;
const U = 4n;
const XD = 1n << 63n;
/** Page-fault error code (SDM vol. 3A, figure 4-12). */
const Code = { P: 1, W: 2, U: 4, RSVD: 8, ID: 16 } as const;

/** The page fault's error code, or undefined where the access is allowed. `wide`: 8-byte entries (PAE, IA-32e). */
export function pageFault(
  steps: readonly Step[],
  access: Access,
  control: PagingControl,
  wide: boolean,
): number | undefined {
  const nx = wide && control.nxe;
  let error = 0;
  if (access.kind === "write") error |= Code.W;
  if (access.user) error |= Code.U;
  // 4.7: I/D only where SMEP, or PAE with NXE
  if (access.kind === "fetch" && (nx || control.smep)) error |= Code.ID;
  let [writable, user, executeDisable] = [true, true, false];
  for (const { entry, reserved, plain = false } of steps) {
    if ((entry & P) === 0n) return error;
    const xdReserved = wide && !control.nxe ? XD : 0n;
    if ((entry & (reserved | xdReserved)) !== 0n) return error | Code.P | Code.RSVD;
    if (plain) continue;
    writable &&= (entry & W) !== 0n;
    user &&= (entry & U) !== 0n;
    executeDisable ||= nx && (entry & XD) !== 0n;
  }
  return allowed(access, control, writable, user, executeDisable) ? undefined : error | Code.P;
}

/** 4.6.1: determination of access rights. */
function allowed(
  { kind, user }: Access,
  { wp, smep, smap, ac }: PagingControl,
  writable: boolean,
  userPage: boolean,
  executeDisable: boolean,
): boolean {
  if (user) {
    if (!userPage) return false;
    return kind === "read" || (kind === "write" ? writable : !executeDisable);
  }
  if (kind === "fetch") return !executeDisable && !(userPage && smep);
  if (userPage && smap && !ac) return false;
  return kind === "read" || writable || !wp;
}
