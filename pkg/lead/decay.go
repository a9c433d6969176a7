package lead

import (
	"math"
	"time"
)

// decay halves a score for each half-life. Whole ones are exact, and the rest has
// the same bits on every machine, so that instances on different ones agree:
// math.Exp2 is assembly on some, and rounds otherwise there.
func decay(score float64, by, halfLife time.Duration) float64 {
	if by <= 0 || score == 0 {
		return score
	}
	halves, rest := by/halfLife, by%halfLife
	if rest > 0 {
		score = float64(score * half(rest, halfLife))
	}
	return math.Ldexp(score, -int(min(halves, 1<<20)))
}

// steps is into how many parts a half-life is divided, for which powers of two
// are kept.
const steps = 256

// powers[i] is 2 to the power of -i/steps.
var powers = powersOfRoots()

func powersOfRoots() (powers [steps]float64) {
	powers[0] = 1
	root := 1.0 / 2
	for span := steps / 2; span > 0; span /= 2 {
		root = math.Sqrt(root) // rounded in one way by every machine
		for i := span; i < steps; i += 2 * span {
			powers[i] = float64(powers[i-span] * root)
		}
	}
	return powers
}

// half is 2 to the power of -part/whole, for 0 <= part < whole <= maxHalfLife: a
// power from the table, and five terms of the series of 2^-x for what is left.
// The conversions keep a compiler from joining a product and a sum, which would
// not round the product.
func half(part, whole time.Duration) float64 {
	scaled := part * steps // below 2^63 for half-lives up to a year
	x := float64(float64(scaled%whole) / float64(whole) / steps * math.Ln2)
	series := 1.0
	for _, c := range [...]float64{1.0 / 5, 1.0 / 4, 1.0 / 3, 1.0 / 2, 1} {
		series = 1 - float64(float64(x*series)*c)
	}
	return float64(powers[scaled/whole] * series)
}
