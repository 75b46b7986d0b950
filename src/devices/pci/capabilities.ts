/** The list of capabilities in configuration space: PCI Local Bus Specification 3.0, 6.7 and appendix H. */
import { COMPATIBLE_SPACE_SIZE, ConfigOffset } from "./registers.js";

export const CapabilityId = { VENDOR_SPECIFIC: 0x09, PCI_EXPRESS: 0x10, MSI_X: 0x11 } as const;

/** Bytes of the header of each capability: its ID and the pointer to the next one. */
export const CAPABILITY_HEADER_SIZE = 2;

export interface CapabilityDefinition {
  readonly id: number;
  /** The bytes after ID and next pointer. */
  readonly body: Uint8Array;
  /** Bits of `body` that software can write; none where left out. */
  readonly writable?: Uint8Array;
  /** Bits of `body` that writing 1 clears; none where left out. */
  readonly writeOneToClear?: Uint8Array;
}

export interface PlacedCapability extends CapabilityDefinition {
  /** Offset of the capability's ID in configuration space. */
  readonly offset: number;
  /** Offset of the next capability, 0 for none. */
  readonly next: number;
}

/**
 * Give each capability its dword-aligned place after the header. Throws `RangeError` where they do not fit.
 */
export function placeCapabilities(capabilities: readonly CapabilityDefinition[]): PlacedCapability[] {
  const offsets: number[] = [];
  let at: number = ConfigOffset.DEVICE_SPECIFIC;
  for (const { id, body } of capabilities) {
    const end = at + CAPABILITY_HEADER_SIZE + body.length;
    if (end > COMPATIBLE_SPACE_SIZE) throw new RangeError(`PCI capability 0x${id.toString(16)} does not fit`);
    offsets.push(at);
    at = (end + 3) & ~3;
  }
  return capabilities.map((capability, i) => ({
    ...capability,
    offset: offsets[i],
    next: offsets[i + 1] ?? 0,
  }));
}
