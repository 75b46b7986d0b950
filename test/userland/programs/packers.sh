# Compressed sizes and contents are the same everywhere; what comes back has to be what went in.
awk 'BEGIN { x = 7; for (i = 0; i < 30000; i++) { x = (x * 48271) % 2147483647; print x % 1000, "some words that repeat", x } }' > plain
openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 -in /dev/zero 2>/dev/null | head -c 300000 > noise
head -c 800000 /dev/zero > zeros
cat plain noise zeros > data; sha256sum data
for tool in 'gzip -n1' 'gzip -n9' 'bzip2 -9' 'xz -1' 'xz -6' 'xz -2 --x86 --lzma2' 'zstd -q -1' 'zstd -q -7' 'zstd -q -15'; do
  set -- $tool
  $tool -c < data > packed; echo "$tool $(wc -c < packed) $(sha256sum < packed)"
  $1 -dc < packed | cmp - data && echo same
  $1 -tq packed < packed 2>/dev/null; head -c 5000 packed | $1 -dc > /dev/null 2>&1; echo "truncated: $?"
done
