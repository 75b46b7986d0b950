# Fields, arrays, strings, floating point.
BEGIN {
  for (i = 0; i < 120000; i++) {
    word = "w" (i * 7919 % 4999)
    count[word]++
    total += length(word) * 1.5 / (i + 0.25)
  }
  for (i = 0; i < 30000; i++) {
    n = split("the quick brown fox jumps over the lazy dog " i, fields, " ")
    line = fields[n] fields[2] substr(fields[n - 1], 2)
    if (line ~ /7quick/) sevens++
    gsub(/o/, "0", line)
    letters += length(line)
  }
  for (start = 1; start < 3000; start++)
    for (x = start; x != 1; steps++) x = x % 2 ? 3 * x + 1 : x / 2
  printf "%.6f %d %d %d %d\n", total, sevens, letters, steps, length(count)
}
