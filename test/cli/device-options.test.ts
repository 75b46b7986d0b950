/** Values of the options that name disks and virtio devices. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parsePort, parseTty, parseVsock } from "../../src/cli/device-options.js";
import { parseDisk } from "../../src/cli/disk-option.js";

test("--disk", () => {
  assert.deepEqual(parseDisk("a.img"), { file: "a.img" });
  assert.deepEqual(parseDisk("a,,b.img,ro,format=raw,serial=S 1"), {
    file: "a,b.img",
    readOnly: true,
    format: "raw",
    serial: "S 1",
  });
  assert.deepEqual(parseDisk("x,cow"), { file: "x", cow: true });
  assert.deepEqual(parseDisk("x,cow=o.qcow2,format=qcow2"), {
    file: "x",
    cow: { file: "o.qcow2" },
    format: "qcow2",
  });
  const wrong = [
    "",
    ",ro",
    "x,",
    "x,rw",
    "x,ro=1",
    "x,ro,ro",
    "x,cow=",
    "x,ro,cow",
    "x,format=vmdk",
    "x,format",
    "x,serial=",
  ];
  for (const text of [...wrong, `x,serial=${"s".repeat(21)}`, "x,serial=\u00e4"]) {
    assert.throws(() => parseDisk(text), { name: "InvalidArgumentError" }, text);
  }
});

test("--vsock", () => {
  assert.deepEqual(parseVsock("3"), { cid: 3 });
  assert.deepEqual(parseVsock("4294967294,uds=/tmp/a,,b"), { cid: 4294967294, uds: "/tmp/a,b" });
  for (const text of [
    "",
    "2",
    "4294967295",
    "x",
    "3,",
    "3,uds=",
    "3,path=/x",
    "3,uds=/x,uds=/y",
    `3,uds=/${"x".repeat(100)}`,
  ]) {
    assert.throws(() => parseVsock(text), { name: "InvalidArgumentError" }, text);
  }
});

test("--virtio-port and --tty", () => {
  assert.deepEqual(parsePort("org.x.y,uds=/tmp/p"), { name: "org.x.y", uds: "/tmp/p" });
  for (const text of ["", "a", "a,uds=", "a b,uds=/x", "/a,uds=/x"]) {
    assert.throws(() => parsePort(text), { name: "InvalidArgumentError" }, text);
  }
  assert.equal(parseTty("3"), 3);
  for (const text of ["4", "-1", "", "a"])
    assert.throws(() => parseTty(text), { name: "InvalidArgumentError" });
});
