# Text tools on a few megabytes made by awk, whose numbers are doubles.
awk 'BEGIN { x = 42; for (i = 0; i < 40000; i++) { x = (x * 16807) % 2147483647;
  printf "%d %.6f %x key%05d\n", x % 100000, x / 1000003, x, x % 7919 } }' > numbers
sha256sum numbers; wc numbers
sort numbers | sha256sum; sort -n numbers | sha256sum; sort -k2,2g numbers | sha256sum; sort -u -k4,4 numbers | wc -l
sort -rn -k1,1 -k2,2 -S 300k numbers | sha256sum
awk '{ s += $2; q += $2 * $2; n[$4]++ } END { m = s / NR; printf "%.9f %.9g %d\n", m, sqrt(q / NR - m * m), length(n) }' numbers
awk 'BEGIN { for (i = 1; i <= 60; i++) printf "%.15g %.15g %.15g %.15g\n", sin(i), exp(i / 7), log(i), atan2(i, 3) }' | md5sum
cut -d' ' -f4 numbers | sort | uniq -c | sort -k1,1nr -k2 | head -5
grep -c '[05]\{2\}' numbers; grep -E '(12|34).*(56|78)$' numbers | md5sum; sed -E 's/([0-9]+) ([0-9.]+)/\2 \1/; s/key/K/' numbers | md5sum
tr 0-9a-f a-jA-F < numbers | rev | tac | md5sum; head -c 100000 numbers | od -An -t fD -t x8 -t d2 | md5sum
head -c 16000 numbers | od -An -t fL -t fF | md5sum
cksum numbers; sum numbers; b2sum numbers; sha1sum numbers; sha512sum numbers; md5sum numbers; base64 numbers | md5sum
for i in 1 2 3 4 5; do factor $((600851475143 * i)) 1844674407370955161$i; done
seq -f %.3f 0 0.125 20 | tr '\n' ' ' | md5sum; seq 1 1000 | paste -sd+ | bc
echo 'scale=120; 4*a(1); e(1); sqrt(2); s(1); l(2); 2^300' | bc -l
numfmt --to=iec 123456789 --format %.3f; numfmt --from=si 1.5G; printf '%.15g\n' 0.1 1e-300 123456789.123456789
date -u -d @1700000000 '+%F %T %A %j %s'; date -u -d '2024-02-29 +1 year' +%F; expr 12345678901234567890 '*' 98765432109876543210
head -20000 numbers > a; sed '5000,5100d; 9000s/key/KEY/' a > b; diff a b | md5sum; sort a > sa; sort b > sb; comm -13 sa sb | md5sum
dd if=numbers of=copy bs=777 conv=swab 2>/dev/null; md5sum copy; dd if=/dev/zero bs=1M count=64 2>/dev/null | sha1sum
split -b 100000 numbers part; cat part* | cmp - numbers && echo same; tar cf - part* | tar tf - | wc -l
