/** Structures of a VM: memory, interrupts, clocks, of <linux/kvm.h> and <asm/kvm.h> (x86), Linux 6.1, by their names and fields there. */
import { array, bytes, Struct, union } from "./struct.js";

// --- memory ---

export const kvm_userspace_memory_region = new Struct("kvm_userspace_memory_region", {
  slot: "u32",
  flags: "u32",
  guest_phys_addr: "u64",
  memory_size: "u64",
  userspace_addr: "u64",
});

export const kvm_dirty_log = new Struct("kvm_dirty_log", {
  slot: "u32",
  padding1: "u32",
  dirty_bitmap: "u64",
});

export const kvm_clear_dirty_log = new Struct("kvm_clear_dirty_log", {
  slot: "u32",
  num_pages: "u32",
  first_page: "u64",
  dirty_bitmap: "u64",
});

// --- interrupts ---

export const kvm_irq_level = new Struct("kvm_irq_level", { irq: "u32", level: "u32" });
export const kvm_msi = new Struct("kvm_msi", {
  address_lo: "u32",
  address_hi: "u32",
  data: "u32",
  flags: "u32",
  devid: "u32",
  pad: bytes(12),
});
export const kvm_irqfd = new Struct("kvm_irqfd", {
  fd: "u32",
  gsi: "u32",
  flags: "u32",
  resamplefd: "u32",
  pad: bytes(16),
});
export const kvm_ioeventfd = new Struct("kvm_ioeventfd", {
  datamatch: "u64",
  addr: "u64",
  len: "u32",
  fd: "s32",
  flags: "u32",
  pad: bytes(36),
});

export const kvm_irq_routing_irqchip = new Struct("kvm_irq_routing_irqchip", { irqchip: "u32", pin: "u32" });
export const kvm_irq_routing_msi = new Struct("kvm_irq_routing_msi", {
  address_lo: "u32",
  address_hi: "u32",
  data: "u32",
  devid: "u32",
});
export const kvm_irq_routing_entry = new Struct("kvm_irq_routing_entry", {
  gsi: "u32",
  type: "u32",
  flags: "u32",
  pad: "u32",
  u: union({ irqchip: kvm_irq_routing_irqchip, msi: kvm_irq_routing_msi, pad: array("u32", 8) }),
});
/** Followed by `nr` of `kvm_irq_routing_entry`. */
export const kvm_irq_routing = new Struct("kvm_irq_routing", { nr: "u32", flags: "u32" });

export const kvm_pic_state = new Struct("kvm_pic_state", {
  last_irr: "u8",
  irr: "u8",
  imr: "u8",
  isr: "u8",
  priority_add: "u8",
  irq_base: "u8",
  read_reg_select: "u8",
  poll: "u8",
  special_mask: "u8",
  init_state: "u8",
  auto_eoi: "u8",
  rotate_on_auto_eoi: "u8",
  special_fully_nested_mode: "u8",
  init4: "u8",
  elcr: "u8",
  elcr_mask: "u8",
});

export const kvm_ioapic_state = new Struct("kvm_ioapic_state", {
  base_address: "u64",
  ioregsel: "u32",
  id: "u32",
  irr: "u32",
  pad: "u32",
  /** Redirection entries as in the 82093AA data sheet, 3.2.4. */
  redirtbl: array("u64", 24),
});

export const kvm_irqchip = new Struct("kvm_irqchip", {
  chip_id: "u32",
  pad: "u32",
  chip: union({ dummy: bytes(512), pic: kvm_pic_state, ioapic: kvm_ioapic_state }),
});

export const kvm_pit_config = new Struct("kvm_pit_config", { flags: "u32", pad: array("u32", 15) });
export const kvm_pit_channel_state = new Struct("kvm_pit_channel_state", {
  count: "u32",
  latched_count: "u16",
  count_latched: "u8",
  status_latched: "u8",
  status: "u8",
  read_state: "u8",
  write_state: "u8",
  write_latch: "u8",
  rw_mode: "u8",
  mode: "u8",
  bcd: "u8",
  gate: "u8",
  count_load_time: "s64",
});
export const kvm_pit_state2 = new Struct("kvm_pit_state2", {
  channels: array(kvm_pit_channel_state, 3),
  flags: "u32",
  reserved: array("u32", 9),
});
export const kvm_reinject_control = new Struct("kvm_reinject_control", {
  pit_reinject: "u8",
  reserved: bytes(31),
});

// --- coalesced writes ---

export const kvm_coalesced_mmio_zone = new Struct("kvm_coalesced_mmio_zone", {
  addr: "u64",
  size: "u32",
  pio: "u32",
});
export const kvm_coalesced_mmio = new Struct("kvm_coalesced_mmio", {
  phys_addr: "u64",
  len: "u32",
  pio: "u32",
  data: bytes(8),
});
/** Followed by `kvm_coalesced_mmio` to the end of the page. */
export const kvm_coalesced_mmio_ring = new Struct("kvm_coalesced_mmio_ring", { first: "u32", last: "u32" });

// --- the rest ---

export const kvm_clock_data = new Struct("kvm_clock_data", {
  clock: "u64",
  flags: "u32",
  pad0: "u32",
  realtime: "u64",
  host_tsc: "u64",
  pad: array("u32", 4),
});

export const kvm_enable_cap = new Struct("kvm_enable_cap", {
  cap: "u32",
  flags: "u32",
  args: array("u64", 4),
  pad: bytes(64),
});

export const kvm_create_device = new Struct("kvm_create_device", { type: "u32", fd: "u32", flags: "u32" });
export const kvm_device_attr = new Struct("kvm_device_attr", {
  flags: "u32",
  group: "u32",
  attr: "u64",
  addr: "u64",
});
