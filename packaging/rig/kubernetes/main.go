// Command kubernetes reads manifests on standard input, each strictly as the type that it names (an unknown field, a field
// twice, a value of another type are errors), and writes them as JSON to standard output, one a line. It is a module of
// its own, so that certagent does not depend on what it needs.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	if err := convert(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func convert(in io.Reader, out io.Writer) error {
	documents := yaml.NewYAMLReader(bufio.NewReader(in))
	encoder := json.NewEncoder(out)
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		var kind struct{ APIVersion, Kind string }
		if err := strict.Unmarshal(document, &kind); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		var object any
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 ConfigMap":
			object = new(core.ConfigMap)
		case "v1 Secret":
			object = new(core.Secret)
		case "v1 PersistentVolumeClaim":
			object = new(core.PersistentVolumeClaim)
		case "apps/v1 DaemonSet":
			object = new(apps.DaemonSet)
		case "apps/v1 Deployment":
			object = new(apps.Deployment)
		default:
			return fmt.Errorf("not known: %s %q", kind.APIVersion, kind.Kind)
		}
		if err := strict.UnmarshalStrict(document, object); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
		if err := encoder.Encode(object); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}
