/** Packets of the socket device: VIRTIO 5.10.6. All fields little-endian. */

export const VSOCK_HEADER_SIZE = 44;

/** The host's context ID, and the one that means nobody (5.10.4). */
export const HOST_CID = 2;

export const VsockOp = {
  INVALID: 0,
  REQUEST: 1,
  RESPONSE: 2,
  RST: 3,
  SHUTDOWN: 4,
  RW: 5,
  CREDIT_UPDATE: 6,
  CREDIT_REQUEST: 7,
} as const;

export const VsockType = { STREAM: 1, SEQPACKET: 2 } as const;

/** Flags of SHUTDOWN: what the sender will not do any more. */
export const ShutdownFlag = { RECEIVE: 1, SEND: 2, BOTH: 3 } as const;

export interface VsockHeader {
  sourceCid: bigint;
  targetCid: bigint;
  sourcePort: number;
  targetPort: number;
  length: number;
  type: number;
  op: number;
  flags: number;
  /** The sender's buffer for what it receives, and how much of what it received it has passed on; 32 bits (5.10.6.3). */
  bufferAllocation: number;
  forwardCount: number;
}

export function readHeader(bytes: Uint8Array): VsockHeader {
  const fields = new DataView(bytes.buffer, bytes.byteOffset, VSOCK_HEADER_SIZE);
  return {
    sourceCid: fields.getBigUint64(0, true),
    targetCid: fields.getBigUint64(8, true),
    sourcePort: fields.getUint32(16, true),
    targetPort: fields.getUint32(20, true),
    length: fields.getUint32(24, true),
    type: fields.getUint16(28, true),
    op: fields.getUint16(30, true),
    flags: fields.getUint32(32, true),
    bufferAllocation: fields.getUint32(36, true),
    forwardCount: fields.getUint32(40, true),
  };
}

export function writeHeader(header: VsockHeader): Uint8Array {
  const bytes = new Uint8Array(VSOCK_HEADER_SIZE);
  const fields = new DataView(bytes.buffer);
  fields.setBigUint64(0, header.sourceCid, true);
  fields.setBigUint64(8, header.targetCid, true);
  fields.setUint32(16, header.sourcePort, true);
  fields.setUint32(20, header.targetPort, true);
  fields.setUint32(24, header.length, true);
  fields.setUint16(28, header.type, true);
  fields.setUint16(30, header.op, true);
  fields.setUint32(32, header.flags, true);
  fields.setUint32(36, header.bufferAllocation, true);
  fields.setUint32(40, header.forwardCount, true);
  return bytes;
}
