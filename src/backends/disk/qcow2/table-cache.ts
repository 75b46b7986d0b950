/** L2 tables and refcount blocks in memory, each one cluster of the file. Changed ones stay until they are written. */
import type { HostFile } from "../host-file.js";

export class Table {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The changed bytes are in [dirtyFrom, dirtyTo). */
  dirtyFrom: number;
  dirtyTo = 0;

  constructor(
    readonly offset: number,
    size: number,
    /** Nothing in the file refers to it yet. */
    public fresh: boolean,
  ) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
    this.dirtyFrom = size;
  }
}

/** Bytes that a cache's unchanged tables may take. */
const CACHE_BYTES = 32 * 2 ** 20;
const MIN_TABLES = 16;

export class TableCache {
  /** In order of use. */
  readonly #tables = new Map<number, Table>();
  readonly dirty = new Set<Table>();
  readonly #limit: number;

  constructor(
    private readonly file: HostFile,
    private readonly tableSize: number,
  ) {
    this.#limit = Math.max(MIN_TABLES, CACHE_BYTES / tableSize);
  }

  /** There are so many changed tables that they should be written. */
  get full(): boolean {
    return this.dirty.size > this.#limit / 2;
  }

  /** The table at `offset` of the file. */
  get(offset: number): Table {
    let table = this.#tables.get(offset);
    if (table !== undefined) {
      this.#tables.delete(offset);
    } else {
      table = new Table(offset, this.tableSize, false);
      this.file.read(offset, table.bytes);
      this.#makeRoom();
    }
    this.#tables.set(offset, table);
    return table;
  }

  /** A table of zeros, that `offset` is to become. */
  create(offset: number): Table {
    const table = new Table(offset, this.tableSize, true);
    this.drop(offset);
    this.#makeRoom();
    this.#tables.set(offset, table);
    this.touch(table, 0, this.tableSize);
    return table;
  }

  /** The table's bytes [from, to) were changed. */
  touch(table: Table, from: number, to: number): void {
    if (from < table.dirtyFrom) table.dirtyFrom = from;
    if (to > table.dirtyTo) table.dirtyTo = to;
    this.dirty.add(table);
    // It may have lost its place since the caller got it.
    this.#tables.set(table.offset, table);
  }

  write(table: Table): void {
    const { offset, bytes, dirtyFrom, dirtyTo } = table;
    this.file.write(offset + dirtyFrom, bytes.subarray(dirtyFrom, dirtyTo));
    table.dirtyFrom = this.tableSize;
    table.dirtyTo = 0;
    this.dirty.delete(table);
  }

  /** Forget the table at `offset`, changed or not. */
  drop(offset: number): void {
    const table = this.#tables.get(offset);
    if (table === undefined) return;
    this.#tables.delete(offset);
    this.dirty.delete(table);
  }

  #makeRoom(): void {
    if (this.#tables.size < this.#limit) return;
    for (const [offset, table] of this.#tables) {
      if (this.dirty.has(table) || table.fresh) continue;
      this.#tables.delete(offset);
      return;
    }
  }
}
