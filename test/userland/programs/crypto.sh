# Digests, ciphers, MACs and public keys of openssl against what the host's CPU gives.
openssl enc -aes-256-ctr -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 5 -in /dev/zero 2>/dev/null | head -c 500003 > data
for digest in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-224 sha3-256 sha3-512 shake128 blake2b512 blake2s256 sm3 ripemd160 md5-sha1; do
  openssl dgst -$digest data
done
openssl dgst -sha256 -hmac key data; openssl mac -cipher AES-128-CBC -macopt hexkey:000102030405060708090a0b0c0d0e0f -in data CMAC
for cipher in aes-128-cbc aes-192-cbc aes-256-cbc aes-128-ecb aes-256-ctr aes-128-cfb aes-256-ofb aes-128-cfb8 camellia-256-cbc aria-128-cbc sm4-cbc des-ede3-cbc chacha20; do
  openssl enc -$cipher -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0102030405060708090a0b0c0d0e0f10 -in data -out sealed 2>/dev/null
  openssl dgst -sha256 < sealed
  openssl enc -d -$cipher -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0102030405060708090a0b0c0d0e0f10 -in sealed 2>/dev/null | cmp - data && echo "$cipher same"
done
openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:secret -kdfopt salt:salt -kdfopt iter:2000 PBKDF2
openssl kdf -keylen 32 -kdfopt pass:secret -kdfopt salt:salt -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 SCRYPT
head -c 1000 data > small
openssl dgst -sha256 -sign /nlkt/rsa.pem -hex small; openssl dgst -sha256 -sign /nlkt/rsa.pem -out sig small
openssl rsa -in /nlkt/rsa.pem -pubout -out rsa.pub 2>/dev/null; openssl dgst -sha256 -verify rsa.pub -signature sig small
openssl pkeyutl -sign -inkey /nlkt/ed25519.pem -rawin -in small | openssl dgst -sha256
openssl pkey -in /nlkt/x25519.pem -pubout -out x25519.pub; openssl pkeyutl -derive -inkey /nlkt/x25519.pem -peerkey x25519.pub | openssl dgst -sha256
openssl pkey -in /nlkt/p256.pem -pubout -out p256.pub; openssl pkeyutl -derive -inkey /nlkt/p256.pem -peerkey p256.pub | openssl dgst -sha256
openssl dgst -sha256 -sign /nlkt/p256.pem -out sig small; openssl dgst -sha256 -prverify /nlkt/p256.pem -signature sig small
openssl prime -generate -bits 128 | wc -l; openssl prime 170141183460469231731687303715884105727
openssl req -x509 -new -key /nlkt/p256.pem -subj /CN=guest -days 1 -out cert.pem 2>/dev/null; openssl verify -CAfile cert.pem cert.pem
