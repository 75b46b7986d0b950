/**
 * Registers and bits of the 16550A UART: National Semiconductor, "PC16550D Universal Asynchronous Receiver/Transmitter
 * with FIFOs", June 1995 ("DS" below, with its section).
 */

/** DS table II; the names in comments are those of the other use of the offset. */
export const Register = {
  DATA: 0, // RBR, THR, DLL
  IER: 1, // DLM
  IIR: 2, // FCR
  LCR: 3,
  MCR: 4,
  LSR: 5,
  MSR: 6,
  SCR: 7,
} as const;

/** DS 8.7. */
export const Ier = {
  RX_DATA: 0x01,
  THR_EMPTY: 0x02,
  LINE_STATUS: 0x04,
  MODEM_STATUS: 0x08,
  ALL: 0x0f,
} as const;

/** DS 8.6 and table IV; in order of priority. */
export const Iir = {
  LINE_STATUS: 0x06,
  RX_DATA: 0x04,
  RX_TIMEOUT: 0x0c,
  THR_EMPTY: 0x02,
  MODEM_STATUS: 0x00,
  NONE: 0x01,
  FIFOS_ENABLED: 0xc0,
} as const;

/** DS 8.5. */
export const Fcr = { ENABLE: 0x01, RESET_RX: 0x02, DMA_MODE: 0x08, TRIGGER: 0xc0, TRIGGER_SHIFT: 6 } as const;
export const TRIGGER_LEVELS = [1, 4, 8, 14] as const;

export const LCR_DLAB = 0x80;

/** DS 8.8. */
export const Mcr = { DTR: 0x01, RTS: 0x02, OUT1: 0x04, OUT2: 0x08, LOOP: 0x10, ALL: 0x1f } as const;

/** DS 8.4. */
export const Lsr = {
  DATA_READY: 0x01,
  OVERRUN: 0x02,
  BREAK: 0x10,
  THR_EMPTY: 0x20,
  TX_EMPTY: 0x40,
  FIFO_ERROR: 0x80,
} as const;

/** DS 8.9: the state of the modem's lines; their changes are the same bits four places lower. */
export const ModemLine = { CTS: 0x10, DSR: 0x20, RI: 0x40, DCD: 0x80 } as const;
export const DELTA_SHIFT = 4;
export const MSR_LINES = 0xf0;
export const MSR_DELTAS = 0x0f;
/** A terminal that is there and ready. */
export const CONNECTED = ModemLine.CTS | ModemLine.DSR | ModemLine.DCD;

/** DS 8.8: in loopback the modem's inputs are the four modem outputs. */
export function loopedLines(mcr: number): number {
  return (
    ((mcr & Mcr.RTS) !== 0 ? ModemLine.CTS : 0) |
    ((mcr & Mcr.DTR) !== 0 ? ModemLine.DSR : 0) |
    ((mcr & Mcr.OUT1) !== 0 ? ModemLine.RI : 0) |
    ((mcr & Mcr.OUT2) !== 0 ? ModemLine.DCD : 0)
  );
}
