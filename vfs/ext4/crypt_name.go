package ext4

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Names in encrypted directories are ciphertext. Without the key the kernel shows a no-key name:
// base64url, unpadded, of struct fscrypt_nokey_name, which is the two hashes of the entry in
// its directory, the first 149 bytes of the ciphertext, and if there are more the SHA-256 of
// the rest. Such a name leads back to its entry, and fits into 255 bytes. See "Without the
// key" in the kernel's Documentation/filesystems/fscrypt.rst.
const (
	nokeyBytes   = 8                        // offset of the ciphertext, behind two __le32
	nokeyDigest  = nokeyBytes + 149         // offset of the SHA-256
	nokeyMax     = nokeyDigest + 32         // bytes
	nokeyNameMax = (nokeyMax*4 + 2) / 3     // encoded: 252
	cryptNameMin = 16                       // bytes of ciphertext, a cipher block
	nokeyWhole   = nokeyDigest - nokeyBytes // longest ciphertext that is encoded whole
)

// nokeyEncoding refuses what the kernel refuses: padding, and bits behind the last byte.
var nokeyEncoding = base64.RawURLEncoding.Strict()

// nokeyName writes the no-key name of an entry to dst, which has room for nokeyNameMax bytes,
// and returns its length. cipher has at least cryptNameMin bytes.
func nokeyName(dst []byte, major, minor uint32, cipher []byte) int {
	var raw [nokeyMax]byte
	binary.LittleEndian.PutUint32(raw[:], major)
	binary.LittleEndian.PutUint32(raw[4:], minor)
	n := nokeyBytes + copy(raw[nokeyBytes:nokeyDigest], cipher)
	if len(cipher) > nokeyWhole {
		digest := sha256.Sum256(cipher[nokeyWhole:])
		n += copy(raw[n:], digest[:])
	}
	nokeyEncoding.Encode(dst, raw[:n])
	return nokeyEncoding.EncodedLen(n)
}

// nokeyNameLen returns the length of the no-key name of so much ciphertext.
func nokeyNameLen(cipher int) int {
	if cipher > nokeyWhole {
		return nokeyNameMax
	}
	return nokeyEncoding.EncodedLen(nokeyBytes + cipher)
}

// nokeyQuery is a decoded no-key name that is looked up.
type nokeyQuery struct {
	raw [nokeyMax + 3]byte // as the decoder rounds up
	n   int
}

// parse decodes a name; false if no entry can have it.
func (q *nokeyQuery) parse(name []byte) bool {
	// NB: the decoder skips line ends.
	if len(name) > nokeyNameMax || bytes.ContainsAny(name, "\r\n") {
		return false
	}
	n, err := nokeyEncoding.Decode(q.raw[:], name)
	q.n = n
	return err == nil && n > nokeyBytes && (n <= nokeyDigest || n == nokeyMax)
}

// whole returns the ciphertext, unless it is too long to stand in the name.
func (q *nokeyQuery) whole() (cipher []byte, ok bool) {
	return q.raw[nokeyBytes:q.n], q.n != nokeyMax
}

// hashes returns the hashes of the entry as the name has them.
func (q *nokeyQuery) hashes() (major, minor uint32) {
	return binary.LittleEndian.Uint32(q.raw[:]), binary.LittleEndian.Uint32(q.raw[4:])
}

// match tells whether an entry's ciphertext is that of the name.
func (q *nokeyQuery) match(cipher []byte) bool {
	if whole, ok := q.whole(); ok {
		return bytes.Equal(cipher, whole)
	}
	if len(cipher) <= nokeyWhole ||
		!bytes.Equal(cipher[:nokeyWhole], q.raw[nokeyBytes:nokeyDigest]) {
		return false
	}
	digest := sha256.Sum256(cipher[nokeyWhole:])
	return bytes.Equal(digest[:], q.raw[nokeyDigest:nokeyMax])
}
