# 2,000 processes: half of them subshells, half programs.
i=0
sum=0
while [ $i -lt 1000 ]; do
  sum=$((sum + $(echo $((i * i % 17)))))
  /bin/true && i=$((i + 1))
done
echo $sum
