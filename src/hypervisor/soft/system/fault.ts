/** An exception raised by an operation in TypeScript. Not an `Error`: it is thrown often, and a stack trace costs. */
import { FAULT_NO_ERROR_CODE, Vector } from "../vcpu-state.js";

export class GuestFault {
  constructor(
    readonly vector: number,
    readonly errorCode: number = FAULT_NO_ERROR_CODE,
    /** Page faults: the linear address for CR2. */
    readonly address?: bigint,
  ) {}
}

export const gp = (errorCode = 0) => new GuestFault(Vector.GP, errorCode);
export const ud = () => new GuestFault(Vector.UD);

/** Thrown by an access that the machine has to serve first (MMIO); the instruction is run again afterwards. */
export class AccessPending {}
export const ACCESS_PENDING = new AccessPending();
