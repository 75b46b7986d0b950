# Numbers: formatting, conversion, overflow to floating point, big numbers, pack.
use strict; use warnings; no warnings qw(overflow portable numeric);
printf "%.17g %.17g %.17g %s %s\n", 0.1, 1/3, 1e308*10, 9**20, 2**63;
printf "%s %s %s %s\n", 18446744073709551615, 18446744073709551616, -9223372036854775808, 9223372036854775807 + 1;
printf "%d %u %o %x %b %e %g %.0f %s\n", -17, ~0, 511, 3735928559, 1023, 6.02214076e23, 1e-5, 0.5, 1e15 + 0.3;
printf "%a %a %a %a\n", 0.1, -1.5e-310, 1e300, 4.9e-324;
printf "%s ", $_ for map { int($_) } (-2.5, 2.5, 1e18, -1e19, 4294967296.7); print "\n";
printf "%.15g ", $_ for map { (sin $_, cos $_, exp $_, log($_ + 1), sqrt $_, atan2($_, 2), $_ ** 0.37, $_ ** -3) } 0.1, 1, 2.5, 10, 700; print "\n";
printf "%d %d %d\n", 17 % -5, -17 % 5, -17 / 5; { use integer; printf "%d %d %d\n", 17 % -5, -17 % 5, -17 / 5; }
print join(",", unpack("H*", pack("w N n v V Q< q> f< d> Z5 A5 C c U s l", 300, 1, 2, 3, 4, 5, -6, 1.5, -2.25, "abc", "de", 200, -3, 233, -4, -5))), "\n";
print join(",", unpack("f< d< f> d>", pack("f< d< f> d>", 3.3, 3.3, 1e-42, 1e-310))), "\n";
print join(" ", map { unpack("%32C*", $_) } "checksum", "x" x 1000), "\n";
my $x = 12345; my $h = ""; for (1 .. 20000) { $x = ($x * 1103515245 + 12345) & 0x7fffffff; $h = ($h eq "" ? 0 : $h) ^ ($x << ($_ % 31)); } print "$h\n";
my $f = 0.5; for (1 .. 20000) { $f = 3.99 * $f * (1 - $f); } printf "%.17g\n", $f;
print oct("0x1f"), " ", oct("0b101"), " ", hex("ffffffffffffffff"), " ", "0x10" + 0, " ", "1e3abc" * 1, " ", "  12  " + 1, "\n";
for my $s (qw(1e23 8.5e-5 123456789012345678901234567890 0.000001 1.7976931348623157e308 2.2250738585072014e-308 5e-324 1e-400 9007199254740993)) { printf "%s %.17g\n", $s, $s; }
use Math::BigInt; use Math::BigFloat;
print Math::BigInt->new(2)->bpow(521)->bsub(1), "\n", Math::BigInt->new(60)->bfac, "\n";
print Math::BigFloat->new(2)->bsqrt(60), " ", Math::BigFloat->bpi(60), " ", Math::BigFloat->new("0.1")->bexp(40), "\n";
print Math::BigInt->new("123456789012345678901234567890")->bmodpow("987654321", "1000000000000000000000000000057"), "\n";
