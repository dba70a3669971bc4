package durabletest

import "os"

// dear is how many times fewer points a sweep visits under the race detector, which makes each of them some six times as dear.
// What that detector finds is two goroutines at one variable, and they meet there whichever call fails; what a fault does to
// the disk is for the sweep without it to find.
const dear = 5

// Stride is by how much a sweep raises n: by 1 where the environment says CERTAGENT_FAULTS=all (make test-faults); by short
// otherwise, which should be a prime; by more under the race detector.
func Stride(short int) int {
	switch {
	case os.Getenv("CERTAGENT_FAULTS") == "all":
		return 1
	case racing:
		return dear * short
	}
	return short
}

// Few reports whether a sweep has visited fewer points than it should: least, or as much less as its [Stride] is wider under
// the race detector. A sweep that visited none has always visited too few.
func Few(visited, least int) bool {
	if racing {
		least = max(1, least/dear)
	}
	return visited < least
}
