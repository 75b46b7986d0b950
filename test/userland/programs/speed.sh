# openssl speed: long loops of the same functions, its figures are of no interest here.
openssl speed -seconds 1 -bytes 8192 -evp sha256 > /dev/null 2>&1; echo $?
openssl speed -seconds 1 -bytes 8192 -evp aes-128-gcm > /dev/null 2>&1; echo $?
openssl speed -seconds 1 -bytes 8192 -evp chacha20-poly1305 > /dev/null 2>&1; echo $?
openssl speed -seconds 1 rsa2048 > /dev/null 2>&1; echo $?
openssl speed -seconds 1 ecdsap256 > /dev/null 2>&1; echo $?
