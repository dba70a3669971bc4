package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"certagent/store/durable"
)

// maxPayload bounds the payload file, in bytes. DPS has a lower limit of its own, which may change.
const maxPayload = 64 << 10

// readPayload reads the file whose JSON goes to the webhook of DPS, which finds a hub for the device by it. What somebody
// who is not trusted may have written, or may have put into its place, is a [*durable.UnsafeError], as with the places of
// outputs. It follows links, each as if it stood in the configuration.
func readPayload(name string, trust durable.Trust) ([]byte, error) {
	files, path := durable.OS{}, name
	for links := 0; ; links++ {
		dir, info, err := durable.Walk(files, filepath.Dir(path), trust)
		if err != nil {
			return nil, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		if others := trust.Others(info); others.Who != "" {
			return nil, &durable.UnsafeError{Why: fmt.Sprintf("%s may write %s, where it lies", others.Who, dir),
				Fix: others.Fix + ", or choose another place"}
		}
		target, err := os.Readlink(path)
		if err != nil {
			break // it is no link: what it is shows when it is read
		}
		if links == 40 {
			return nil, fmt.Errorf("%s: too many links", name)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	data, info, err := durable.ReadFile(files, path, maxPayload)
	if err != nil {
		return nil, err
	}
	if others := trust.Others(info); others.Who != "" {
		return nil, &durable.UnsafeError{Why: others.Who + " may write " + path, Fix: others.Fix}
	}
	return data, nil
}
