/** The part of seek-bzip, a CommonJS module without types, that is used here. */
declare module "seek-bzip" {
  interface InputStream {
    readByte(): number;
    read(buffer: Uint8Array, offset: number, length: number): number;
  }

  interface OutputStream {
    writeByte(byte: number): void;
  }

  const bzip: {
    /** Decompresses one bzip2 stream. Throws where it is damaged. */
    decode(input: InputStream, output: OutputStream): void;
  };
  export default bzip;
}
