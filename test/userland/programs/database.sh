# sqlite3: B-trees, sorting, floating point, text, JSON, a window function, recursive queries.
sqlite3 test.db <<'SQL'
pragma journal_mode=wal; create table t(id integer primary key, a real, b text, c integer);
with recursive n(i, x) as (select 1, 12345 union all select i + 1, (x * 16807) % 2147483647 from n where i < 20000)
insert into t select i, x / 1000.0, printf('row %d %x', i, x), x % 1000 from n;
create index tc on t(c, a); select count(*), sum(a), avg(a), min(b), max(b) from t;
select c, count(*), round(avg(a), 6) from t group by c order by count(*) desc, c limit 5;
select t.id, u.id from t join t u on t.c = u.c and t.id < u.id where t.id < 40 order by 1, 2 limit 10;
select sum(length(group_concat)) from (select group_concat(b) from t group by c % 10);
update t set a = a * 1.0000001 where c < 500; delete from t where c % 7 = 0; select count(*), total(a) from t;
select b, rank() over (order by a) from t where c = 33 order by b limit 5;
select json_extract('{"a":[1,2.5,{"b":"x"}]}', '$.a[2].b'), 1e23, 0.1 + 0.2, 1/3.0, printf('%.20f', 0.1), 9223372036854775807 + 1;
select hex(sha3('x')); select date(1700000000, 'unixepoch'), julianday('2024-02-29'); select instr('abc', 'c'), abs(-5.5), round(2.5), 'a' || 'b' like 'A%';
vacuum; pragma integrity_check; pragma page_count;
SQL
echo $?
sqlite3 test.db .dump | sha256sum
