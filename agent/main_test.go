package agent

import (
	"fmt"
	"os"
	"testing"

	"certagent/agent/hook"
)

// dieVariable makes this test binary a device that kills itself: TestKilledAtEveryCallOfATurn.
const dieVariable = "CERTAGENT_TEST_DIE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case becomeWord:
			fmt.Println(hook.Become(os.Args[2:]))
			os.Exit(127)
		case tellWord:
			if err := tell(os.Args[2], os.Args[3]); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	if task := os.Getenv(dieVariable); task != "" {
		if err := dieInATurn(task); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
