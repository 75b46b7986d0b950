# Strings, patterns, hashes, sorting, files, processes, digests.
use strict; use warnings; use utf8; binmode STDOUT, ":utf8";
my $text = join " ", map { my $n = $_; join "", map { chr(97 + ($n * $_ * 7 + $_) % 26) } 1 .. 3 + $n % 7 } 1 .. 4000;
my %count; $count{$_}++ for split ' ', $text; print scalar(keys %count), " ", join(",", (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9]), "\n";
my @m = $text =~ /\b(\w)\w*\1\b/g; print scalar(@m), "\n"; (my $t = $text) =~ s/([aeiou])(\w)/$2\U$1/g; print substr($t, 100, 60), "\n";
print join("|", "2024-02-29T12:34:56" =~ /^(\d+)-(\d+)-(\d+)T(?<h>\d+):(\d+):(\d+)$/), " $+{h}\n";
my $re = qr/^(\((?:[^()]++|(?1))*\))+$/; print join(" ", map { /$re/ ? 1 : 0 } "(a(b)c)", "((", "()()", "(()"), "\n";
print "aaa" . "a" x 20 =~ /^(a+)+$/ ? "match\n" : "no\n"; print join(",", "a1b22c333" =~ /([a-z])(\d+)/g), "\n";
my $u = "Grüße, мир, 世界 \x{1F600}"; print length($u), " ", uc($u), " ", scalar reverse($u), " ", join(",", map { sprintf "%x", ord } split //, $u), "\n";
(my $v = $u) =~ tr/a-zA-Zа-я/*/; print "$v\n"; utf8::encode(my $bytes = $u); print length($bytes), "\n";
printf "%-10s|%5s|%05d|%+.2e|%s\n", "left", "right", 42, 12345.678, join ",", sort { $a <=> $b } map { ($_ * 7919) % 1009 } 1 .. 50;
use Digest::MD5 qw(md5_hex); use Digest::SHA qw(sha1_hex sha256_hex sha512_base64); print md5_hex($text), " ", sha1_hex($text), " ", sha256_hex($text), " ", sha512_base64($text), "\n";
use MIME::Base64; use Storable qw(freeze thaw dclone); use List::Util qw(sum max reduce shuffle first); use POSIX qw(floor ceil fmod strtod strftime :sys_wait_h);
print md5_hex(encode_base64($text)), " ", sum(1 .. 1000), " ", max(3, 9, 2), " ", (reduce { $a * $b } 1 .. 20), "\n";
my $deep = { list => [1 .. 100], map { $_ => { n => $_ ** 2, s => "x" x $_ } } 1 .. 50 }; my $copy = thaw(freeze($deep)); print $copy->{37}{n}, " ", length($copy->{50}{s}), "\n";
print floor(-2.5), " ", ceil(2.1), " ", fmod(10, 3.3), " ", (strtod("0x1.8p3"))[0], " ", strftime("%F %T", gmtime(1700000000)), " ", POSIX::DBL_MAX, "\n";
srand(42); print join(",", map { int rand 1000 } 1 .. 10), "\n";
pipe(my $r, my $w); my @kids; for my $n (1 .. 8) { my $pid = fork; if (!$pid) { close $r; syswrite $w, sprintf "%d:%d\n", $n, sum(map { $_ * $n } 1 .. 500); exit $n; } push @kids, $pid; }
close $w; print sort <$r>; my $status = 0; waitpid($_, 0), $status += $? >> 8 for @kids; print "$status\n";
my $alarm = 0; $SIG{ALRM} = sub { $alarm++ }; alarm 1; select undef, undef, undef, 3; print "alarm $alarm\n";
eval { local $SIG{USR1} = sub { die "signal\n" }; kill USR1 => $$; sleep 2; }; print $@; eval { die { code => 42 } }; print $@->{code}, "\n";
open my $file, "+>", "work" or die; print $file "$_ " . "y" x ($_ % 50) . "\n" for 1 .. 3000; seek $file, 0, 0; my ($lines, $bytesRead) = (0, 0); while (<$file>) { $lines++; $bytesRead += length } print "$lines $bytesRead\n";
my @sorted = sort { $a->[1] <=> $b->[1] || $a->[0] <=> $b->[0] } map { [$_, ($_ * 48271) % 10007] } 1 .. 20000; print join(",", map { $_->[0] } @sorted[0 .. 9, -10 .. -1]), "\n";
my $s = ""; for my $n (1 .. 3000) { $s .= chr(33 + $n % 90); substr($s, $n % length($s), 1) = "Z" } print md5_hex($s), "\n"; my $h = 5381; $h = (($h << 5) + $h + ord) & 0xffffffff for split //, $s; print "$h\n";
format STDOUT =
@<<<<<<<< @>>>>>>> @##.##
"left", "right", 3.14159
.
write;
