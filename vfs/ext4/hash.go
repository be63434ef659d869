package ext4

import "math/bits"

// Hash versions: what dx_root_info.hash_version and s_def_hash_version say. The unsigned ones
// never stand on the disk: the superblock's flags choose between signed and unsigned.
const (
	hashLegacy          = 0
	hashHalfMD4         = 1
	hashTEA             = 2
	hashLegacyUnsigned  = 3
	hashHalfMD4Unsigned = 4
	hashTEAUnsigned     = 5
	hashSip             = 6 // keyed, of directories both encrypted and casefolded; not computable
)

// hashEOF is the hash that ends a directory in the kernel's cookies; no name may have it.
const hashEOF = 0xfffffffe

// hasher is a hash version and its seed.
type hasher struct {
	version uint8
	seed    [4]uint32
}

// hasher returns what computes hashes of the given version on this volume. ok is false for a
// version that does not exist. See "Hash Tree Directories" (directory.rst).
func (v *Volume) hasher(version uint8) (h hasher, ok bool) {
	h = hasher{version: version, seed: v.HashSeed}
	if version <= hashTEA && v.HashUnsigned {
		h.version += hashLegacyUnsigned
	}
	if h.seed == [4]uint32{} { // the initial state of MD4
		h.seed = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	}
	return h, version <= hashTEA || version == hashSip
}

// name returns the hash of a name, by which the index is sorted, and its minor hash. The hash is
// even: bit 0 serves the index.
func (h *hasher) name(name []byte) (major, minor uint32) {
	switch h.version {
	case hashLegacy, hashLegacyUnsigned:
		major = h.hashLegacy(name)
	case hashHalfMD4, hashHalfMD4Unsigned:
		major, minor = h.halfMD4(name)
	case hashTEA, hashTEAUnsigned:
		major, minor = h.tea(name)
	}
	if major &^= 1; major == hashEOF {
		major -= 2
	}
	return major, minor
}

func (h *hasher) unsigned() bool { return h.version >= hashLegacyUnsigned }

// legacy says that the hash has no minor part.
func (h *hasher) legacy() bool {
	return h.version == hashLegacy || h.version == hashLegacyUnsigned
}

// char widens a byte of a name as the platform's char that wrote the directory did.
func char(b byte, unsigned bool) uint32 {
	if unsigned {
		return uint32(b)
	}
	return uint32(int8(b))
}

// hashLegacy computes the first hash that indexed directories had, a linear recurrence.
func (h *hasher) hashLegacy(name []byte) uint32 {
	prev, cur := uint32(0x37abe8f9), uint32(0x12a3fe2d)
	for _, b := range name {
		next := prev + (cur ^ char(b, h.unsigned())*7152373)
		if next&0x80000000 != 0 {
			next -= 0x7fffffff
		}
		prev, cur = cur, next
	}
	return cur << 1
}

// words packs the first bytes of msg into out, big end first, and pads with the message's length
// in every byte.
func (h *hasher) words(msg []byte, out []uint32) {
	n := uint32(len(msg))
	pad := (n | n<<8)
	pad |= pad << 16
	msg = msg[:min(len(msg), 4*len(out))]
	for i := range out {
		word := pad
		for _, b := range msg[min(4*i, len(msg)):min(4*i+4, len(msg))] {
			word = char(b, h.unsigned()) + word<<8
		}
		out[i] = word
	}
}

// halfMD4 hashes pieces of 32 bytes by the first three rounds of MD4, shortened to eight steps.
func (h *hasher) halfMD4(name []byte) (major, minor uint32) {
	state := h.seed
	var in [8]uint32
	for len(name) > 0 {
		h.words(name, in[:])
		halfMD4Transform(&state, &in)
		name = name[min(32, len(name)):]
	}
	return state[1], state[2]
}

// Rounds of half MD4: the order in which a round takes its words, its rotations, its constant.
var (
	halfMD4Order = [3][8]uint8{
		{0, 1, 2, 3, 4, 5, 6, 7}, {1, 3, 5, 7, 0, 2, 4, 6}, {3, 7, 2, 6, 1, 5, 0, 4},
	}
	halfMD4Rotate = [3][4]uint8{{3, 7, 11, 19}, {3, 5, 9, 13}, {3, 9, 11, 15}}
	halfMD4Add    = [3]uint32{0, 0x5a827999, 0x6ed9eba1}
)

func halfMD4Transform(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	for round := range 3 {
		for i, word := range halfMD4Order[round] {
			var f uint32
			switch round {
			case 0:
				f = d ^ b&(c^d)
			case 1:
				f = b&c + (b^c)&d
			default:
				f = b ^ c ^ d
			}
			a += f + in[word] + halfMD4Add[round]
			a = bits.RotateLeft32(a, int(halfMD4Rotate[round][i&3]))
			a, b, c, d = d, a, b, c
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}

// tea hashes pieces of 16 bytes with the Tiny Encryption Algorithm, 16 cycles.
func (h *hasher) tea(name []byte) (major, minor uint32) {
	const delta = 0x9e3779b9
	x, y := h.seed[0], h.seed[1]
	var in [4]uint32
	for len(name) > 0 {
		h.words(name, in[:])
		b0, b1, sum := x, y, uint32(0)
		for range 16 {
			sum += delta
			b0 += (b1<<4 + in[0]) ^ (b1 + sum) ^ (b1>>5 + in[1])
			b1 += (b0<<4 + in[2]) ^ (b0 + sum) ^ (b0>>5 + in[3])
		}
		x, y = x+b0, y+b1
		name = name[min(16, len(name)):]
	}
	return x, y
}
