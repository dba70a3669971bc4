package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"certagent/agent/status"
)

// aziotHeader says where the fragment goes: what stands in the wrong place IoT Edge passes over without a word.
const aziotHeader = `# Made by certagent config aziot, for /etc/aziot/config.toml. The files are kept by certagent. What stands here above the first
# table goes above the first table there; the tables take the place of those that are there; [cert_issuance.est] has to go.

`

func (p *program) configAziotCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "aziot",
		Short: "print what IoT Edge's configuration needs to use these files",
		Long: `aziot prints a part of Azure IoT Edge's /etc/aziot/config.toml: [provisioning] with the device certificate, for source
"dps" or "manual", and [edge_ca], each by the files of outputs that the agent writes and IoT Edge then reads. So the
certificate device-id needs an output of format "fullchain" and one of format "key", and so does [edge_ca]; one of format
"ca" there becomes trust_bundle_cert. It says where IoT Edge's users may not read them.

Its tables take the place of those in IoT Edge's file, and trust_bundle_cert goes above the first table there: below, IoT Edge
passes it over without a word. [cert_issuance.est] has to go: IoT Edge would go on with EST itself.

IoT Edge reads the files when it starts, and not before it is restarted, which restarts all modules. The agent has no right to do
that: its hook leaves word for certagent-deploy@.path, as examples/azure-iot-edge has it.

Exit codes: 0 printed, 1 failed, 2 usage, or the configuration is wrong or lacks something for that.`,
		Example: "  certagent config aziot\n  certagent config aziot --config ./new-config.toml",
		Args:    atMost(0),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := p.load()
			if err != nil {
				return badConfig(err)
			}
			fragment, advice, err := cfg.Aziot()
			if err != nil {
				return misused(&hint{err, "certagent help config aziot says what is needed, certagent-config.toml(5) how to write it"})
			}
			for _, a := range advice {
				fmt.Fprintf(p.stderr, "certagent: warning: %s\n", status.Printable(a))
			}
			_, err = fmt.Fprintf(p.stdout, aziotHeader+"%s", fragment)
			return err
		},
	}
}
