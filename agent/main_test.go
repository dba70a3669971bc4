package agent

import (
	"fmt"
	"os"
	"testing"
)

// dieVariable makes this test binary a device that kills itself: TestKilledAtEveryCallOfATurn.
const dieVariable = "CERTAGENT_TEST_DIE"

func TestMain(m *testing.M) {
	if task := os.Getenv(dieVariable); task != "" {
		if err := dieInATurn(task); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
