# What an interpreter does: hashes, arrays, strings, regular expressions, arithmetic, calls.
use strict;
use warnings;

sub fibonacci { my $n = shift; return $n < 2 ? $n : fibonacci($n - 1) + fibonacci($n - 2) }

my %count;
for my $i (0 .. 599_999) {
    my $word = "w" . ($i * 7919 % 4999);
    $count{$word}++;
}
my $text = join " ", map { "$_=$count{$_}" } sort keys %count;
my ($matches, $sum) = (0, 0);
for my $round (1 .. 24) {
    while ($text =~ /w(\d+)=(\d+)/g) { $matches++; $sum += $1 * $2 }
}
my @numbers = map { $_ * 7919 % 100_003 } 0 .. 99_999;
my @sorted = sort { $a <=> $b } @numbers;
my ($x, $steps) = (27, 0);
for my $start (1 .. 12_000) {
    $x = $start;
    while ($x != 1) { $x = $x % 2 ? 3 * $x + 1 : $x / 2; $steps++ }
}
print "$matches $sum $sorted[5000] $steps ", fibonacci(23), "\n";
