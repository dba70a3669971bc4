package check

import (
	"certagent/agent"
)

// clock judges what the agent judges its clock by.
func clock(l agent.ClockLook) []*Result {
	const credible, synced = "clock-credible", "clock-synchronised"
	if l.Ignored {
		const why = "the configuration has the clock believed whatever it says ([clock] check = false)"
		return []*Result{skipped(credible, "", why), skipped(synced, "", why)}
	}
	var all []*Result
	switch {
	case l.Doubted != "":
		all = append(all, failed(credible, "", l.Doubted,
			"set the clock or have it synchronised; where there is no time source, [clock] check = false; where it is right all the same, "+
				"stop the agent, delete clock.json in the state directory, and start it"))
	case l.Contrary != "":
		all = append(all, warning(credible, "", l.Contrary,
			"compare the clock with another; if it is right, have the program built by a machine whose clock is right"))
	default:
		all = append(all, ok(credible, "", "nothing that is known contradicts it"))
	}
	if l.Synced {
		return append(all, ok(synced, "", "the system says that it is synchronised"))
	}
	return append(all, warning(synced, "", "the system does not say that its clock is synchronised: nobody notices when it goes wrong",
		"have systemd-timesyncd, chrony or ntpd running; timedatectl tells"))
}
