package renew

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// JitterOf returns the width of the spread for l, which is never more than what is left of l at the threshold. It
// is meant for spreading re-issues after a reload, too; SpreadFirst does not change it.
func (p Policy) JitterOf(l Leaf) time.Duration {
	life := l.life()
	start := later(p.threshold(l, life), l.NotBefore)
	return p.jitter(life, max(0, l.NotAfter.Sub(start)))
}

func (p Policy) jitter(life, left time.Duration) time.Duration {
	if p.JitterSet {
		return min(max(0, p.Jitter.Of(life)), left)
	}
	return min(max(0, p.Retry.Of(life))/2, left/10)
}

// Spread maps seed to a number in [0, 1) by way of SHA-256. The same seed always has the same number, and the
// numbers of different seeds are spread evenly.
func Spread(seed []byte) float64 {
	sum := sha256.Sum256(seed)
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}

// part returns the share f, in [0, 1), of d: at least 0 and less than d, or 0 where d is not positive. It keeps
// these bounds for an f that is out of range or not a number, too.
func part(d time.Duration, f float64) time.Duration {
	return max(0, min(time.Duration(float64(d)*f), d-1))
}
