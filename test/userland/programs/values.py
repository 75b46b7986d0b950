# Numbers of all kinds, text, compression and digests; what is printed is a digest of most of it.
import array, binascii, bisect, cmath, collections, decimal, fractions, hashlib, heapq, itertools, json, math, random, re, statistics, struct, zlib

def say(name, value):
    text = value if isinstance(value, bytes) else repr(value).encode()
    print(name, hashlib.sha256(text).hexdigest()[:16], text[:60])

random.seed(12345)
values = [random.gauss(0, 10 ** random.randint(-20, 20)) for _ in range(1500)]
say("repr", values)
say("hex", [v.hex() for v in values])
say("format", ["%.17g %.3e %10.4f" % (v, v, v if abs(v) < 1e15 else 0) for v in values])
say("float", [float(repr(v)) == v and float("%.25e" % v) for v in values])
say("round", [round(v, n) for v in values[:300] for n in (-2, 0, 3)])
say("ratio", [v.as_integer_ratio() for v in values[:300]])
small = [math.fmod(v, 50) for v in values]
for f in ("sin cos tan atan sinh cosh tanh asinh exp expm1 erf erfc gamma lgamma sqrt log log2 log10 log1p cbrt").split():
    result = []
    for v in small[:300]:
        try:
            result.append(getattr(math, f)(v))
        except (ValueError, OverflowError) as error:
            result.append(str(error))
    say(f, result)
say("pow", [abs(v) ** 0.37 for v in values] + [math.hypot(v, 3) for v in values] + [math.atan2(v, 2) for v in values])
say("fsum", math.fsum(values)); say("prod", math.prod(range(1, 200))); say("comb", [math.comb(300, k) for k in range(0, 300, 7)])
say("cmath", [cmath.exp(complex(a, b)) * cmath.sqrt(complex(b, a)) for a, b in zip(small[:300], small[300:600])])
big = [random.getrandbits(n) * (-1) ** n + 1 for n in range(1, 3000, 29)]
say("int", [a * b // (c | 1) % (10 ** 50 + 7) for a, b, c in zip(big, big[1:], big[2:])])
say("pow3", [pow(a, 65537, b) for a, b in zip(big[:40], big[1:]) if b > 1]); say("str", [str(b) for b in big]); say("isqrt", [math.isqrt(abs(b)) for b in big]); say("gcd", [math.gcd(a, b) for a, b in zip(big, big[1:])])
say("bits", [(b.bit_length(), b.bit_count(), b >> 13, b << 7, b & 0xffffffff, ~b ^ 12345) for b in big])
decimal.getcontext().prec = 60
say("decimal", [decimal.Decimal(2).sqrt(), decimal.Decimal(10).exp(), decimal.Decimal(7).ln(), decimal.Decimal(1) / 7, decimal.Decimal("1.1") ** decimal.Decimal("2.5")])
say("fraction", sum(fractions.Fraction(1, n) for n in range(1, 150)))
say("struct", b"".join(struct.pack("<bhiqfd", n % 128, n, n * n, n ** 4, n / 3, n / 7) for n in range(1000)) + struct.pack(">e", 1.5))
say("half", [struct.unpack("<e", struct.pack("<H", n))[0] for n in range(0, 65536, 97)])
data = bytes(random.getrandbits(8) & 0x3f for _ in range(60000))
say("zlib", zlib.compress(data, 9)); say("crc", (zlib.crc32(data), zlib.adler32(data), binascii.crc_hqx(data, 0)))
assert zlib.decompress(zlib.compress(data, 1)) == data
for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s"):
    print(name, hashlib.new(name, data).hexdigest())
say("pbkdf2", hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 500)); say("scrypt", hashlib.scrypt(b"p", salt=b"s", n=256, r=8, p=1))
say("json", json.dumps({"v": values[:200], "s": "é\u4e16\U0001f600", "n": [None, True, 1e400 if False else 1e300]}))
text = " ".join(random.choice(["alpha", "beta12", "x-ray", "10.5", "foo@bar.com"]) for _ in range(4000))
say("re", re.findall(r"(\w+)@(\w+)\.com|(\d+)\.(\d)", text)[:500]); say("sub", re.sub(r"(?P<a>[a-z]+)(\d+)", r"\2\g<a>", text)); say("split", re.split(r"[\s@.-]+", text)[:1000])
say("counter", collections.Counter(text.split()).most_common()); say("sort", sorted(values, key=lambda v: (int(v) % 7, v))[:300]); say("heap", heapq.nsmallest(20, values))
say("stats", (statistics.mean(small), statistics.stdev(small), statistics.median(small), statistics.quantiles(small, n=7)))
say("perm", list(itertools.islice(itertools.permutations(range(8)), 0, 40000, 777))); say("shuffle", random.sample(range(10000), 50))
say("array", array.array("d", values).tobytes()); say("unicode", "Straße ŐŰ ΑΒΓ ябв".casefold().encode("utf-16") + "ÿ".encode("latin-1"))
def ackermann(m, n): return n + 1 if m == 0 else ackermann(m - 1, 1 if n == 0 else ackermann(m, n - 1)) if m else 0
print(sum(i * i % 7 for i in range(50000)), [n for n in range(2, 200) if all(n % d for d in range(2, n))][-5:], ackermann(2, 6))
