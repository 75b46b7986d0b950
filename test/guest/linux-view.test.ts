/** The machine as a running Linux sees it: processor, clocks, interrupts, serial ports, memory map. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { guestFiles, type Result, runGuest } from "./guests.js";

/** A line `== NAME` goes before each command's output. */
const SCRIPT = `
show() { echo "== $1"; shift; "$@"; }
show cpuinfo cat /proc/cpuinfo
show interrupts1 cat /proc/interrupts
show clocksource cat /sys/devices/system/clocksource/clocksource0/current_clocksource
show clocksources cat /sys/devices/system/clocksource/clocksource0/available_clocksource
show time1 cat /proc/uptime
show date1 date +%s
sleep 1
show time2 cat /proc/uptime
show date2 date +%s
show rtc hwclock -r -u
show interrupts2 cat /proc/interrupts
show iomem cat /proc/iomem
show ioports cat /proc/ioports
for n in 0 1 2 3; do
  stty -F /dev/ttyS$n 115200 2>/dev/null
  show stty$n sh -c "stty -F /dev/ttyS$n -g; echo port $n >/dev/ttyS$n && echo written"
done
show serial cat /proc/tty/driver/serial
show input cat /proc/bus/input/devices
show random1 sh -c 'head -c 16 /dev/random | hexdump -v -e "1/1 \\"%02x\\""; echo'
show random2 sh -c 'head -c 16 /dev/random | hexdump -v -e "1/1 \\"%02x\\""; echo'
show vulnerabilities grep -r . /sys/devices/system/cpu/vulnerabilities
show meminfo cat /proc/meminfo
echo "== end"
`;

describe("Linux in the machine", () => {
  let missing: string | undefined;
  let result: Result;
  const sections = new Map<string, string>();

  before(async () => {
    const files = await guestFiles();
    if (typeof files === "string") {
      missing = files;
      return;
    }
    result = await runGuest(["-m", "256", "-k", files.kernel, "--", "sh", "-c", SCRIPT]);
    for (const part of result.stdout.split(/^== /m).slice(1)) {
      const end = part.indexOf("\n");
      sections.set(part.slice(0, end), part.slice(end + 1).trimEnd());
    }
  });

  const check = (name: string, body: (section: (name: string) => string) => void) =>
    test(name, (t) => {
      if (missing !== undefined) return t.skip(missing);
      body((section) => {
        const text = sections.get(section);
        assert.ok(text !== undefined, `no ${section} in: ${result.stdout}${result.stderr}`);
        return text;
      });
    });

  check("the command ran to its end", (section) => {
    section("end");
    assert.equal(result.stderr, "");
    assert.equal(result.code, 0);
  });

  check("the processor is of the x86-64-v2 level", (section) => {
    const flags = /^flags\s*: (.*)$/m.exec(section("cpuinfo"))?.[1].split(" ") ?? [];
    // Processor supplement of the System V ABI, 3.1.1.
    for (const flag of "cmov cx8 fpu fxsr mmx syscall sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3".split(
      " ",
    ))
      assert.ok(flags.includes(flag), flag);
    for (const flag of "nx smep smap umip rdrand x2apic tsc_deadline_timer constant_tsc nonstop_tsc hypervisor".split(
      " ",
    ))
      assert.ok(flags.includes(flag), flag);
    assert.match(section("cpuinfo"), /^model name\s*: NLKT software CPU$/m);
    assert.equal(section("cpuinfo").match(/^processor\s*:/gm)?.length, 1);
  });

  check("no weakness of real processors costs time", (section) => {
    assert.doesNotMatch(section("vulnerabilities"), /Vulnerable|Retpolines|SW loop|Clear CPU buffers|PTI/);
  });

  const count = (table: string, row: string) =>
    Number(new RegExp(`^ *${row}: +(\\d+)`, "m").exec(table)?.[1]);

  check("the timer ticks, and no interrupt is spurious or in error", (section) => {
    const [first, second] = [section("interrupts1"), section("interrupts2")];
    assert.ok(count(second, "LOC") > count(first, "LOC"));
    assert.ok(count(second, "4") > count(first, "4"), "COM1 interrupts while it prints");
    for (const row of ["NMI", "SPU", "RTR", "ERR", "MIS", "MCE"]) {
      if (second.includes(`${row}:`)) assert.equal(count(second, row), 0, row);
    }
    assert.match(second, /^ *1: +\d+ +IO-APIC +1-edge +i8042$/m);
    assert.match(second, /^ *8: +\d+ +IO-APIC +8-edge +rtc0$/m);
    assert.match(second, /^ *9: +\d+ +IO-APIC +9-fasteoi +acpi$/m);
    assert.match(second, /^ *12: +\d+ +IO-APIC +12-edge +i8042$/m);
  });

  check("the clocks are TSC and kvmclock", (section) => {
    assert.equal(section("clocksource"), "tsc");
    assert.deepEqual(section("clocksources").trim().split(" "), ["tsc", "kvm-clock", "acpi_pm"]);
  });

  check("the guest's time is the host's", (section) => {
    const { from, to } = result;
    const dates = ["date1", "date2"].map((name) => Number(section(name)));
    const uptimes = ["time1", "time2"].map((name) => Number.parseFloat(section(name)));
    // The RTC counts whole seconds, and the kernel takes them for exact.
    for (const date of dates) assert.ok(date >= from - 2 && date <= to + 1, `${from} ${date} ${to}`);
    const slept = uptimes[1] - uptimes[0];
    assert.ok(slept >= 1 && slept <= to - from, `sleep 1 took ${slept} s`);
    assert.ok(dates[1] - dates[0] >= 1);
    assert.ok(uptimes[1] <= to - from);
  });

  check("the RTC goes with them", (section) => {
    const shown = Date.parse(`${section("rtc").replace(/ +[\d.]+ seconds$/, "")} UTC`) / 1000;
    const date = Number(section("date2"));
    assert.ok(shown >= date - 2 && shown <= result.to + 1, `${section("rtc")}: ${shown}, ${date}`);
  });

  check("the memory map: RAM, firmware tables, ECAM, IOAPIC", (section) => {
    const map = section("iomem");
    assert.match(map, /^00001000-0009fbff : System RAM$/m);
    assert.match(map, /^000e0000-000fffff : Reserved$/m);
    assert.match(map, /^00100000-0fffffff : System RAM$/m);
    assert.match(map, /^c0000000-dfffffff : PCI Bus 0000:00$/m);
    assert.match(map, /^e0000000-efffffff : PCI (ECAM|MMCONFIG) 0000 \[bus 00-ff\]$/m);
    assert.match(map, /^fec00000-fec003ff : IOAPIC 0$/m);
  });

  check("ports: ACPI, PCI, four serial ports, RTC, keyboard", (section) => {
    const map = section("ioports");
    for (const range of ["0060-0060 : keyboard", "0070-0071 : rtc0", "0600-0603 : ACPI PM1a_EVT_BLK"])
      assert.match(map, new RegExp(range));
    for (const port of ["02e8-02ef", "02f8-02ff", "03e8-03ef", "03f8-03ff"])
      assert.match(map, new RegExp(`${port} : serial`));
    assert.match(map, /0cf8-0cff : PCI conf1/);
  });

  check("all four serial ports take settings and bytes", (section) => {
    for (const n of [0, 1, 2, 3]) {
      assert.match(section(`stty${n}`), /(^|\n)written$/);
      // The fourth field of `stty -g` is c_cflag; B115200 is 0x1002.
      const flags = Number.parseInt(section(`stty${n}`).split(":")[2], 16);
      assert.equal(flags & 0x100f, 0x1002, `ttyS${n} at 115200`);
      assert.match(section("serial"), new RegExp(`^${n}: uart:16550A port:.* tx:[1-9]`, "m"));
    }
  });

  check("keyboard, random numbers", (section) => {
    assert.match(section("input"), /^N: Name="AT Translated Set 2 keyboard"$/m);
    assert.match(section("random1"), /^[0-9a-f]{32}$/);
    assert.notEqual(section("random1"), section("random2"));
  });

  check("the memory asked for is there", (section) => {
    const total = Number(/^MemTotal: +(\d+) kB$/m.exec(section("meminfo"))?.[1]) / 1024;
    assert.ok(total > 200 && total < 256, `${total} MiB`);
  });
});
