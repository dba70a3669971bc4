//go:build system

package rig

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// manifest reads one of examples/container strictly, as the types of Kubernetes, with some texts replaced: each document as JSON.
func manifest(t *testing.T, file string, replace ...string) (documents []map[string]any) {
	t.Helper()
	text, err := os.ReadFile("../../examples/container/" + file)
	must(t, err)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			t.Fatalf("%s has no %q", file, replace[i])
		}
		text = bytes.ReplaceAll(text, []byte(replace[i]), []byte(replace[i+1]))
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", "kubernetes", ".")
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", file, err, &complaint)
	}
	for line := range bytes.Lines(out) {
		var d map[string]any
		must(t, json.Unmarshal(line, &d))
		documents = append(documents, d)
	}
	return documents
}

// at is what stands in a document behind some keys and numbers.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			v = v.(map[string]any)[step]
		case int:
			v = v.([]any)[step]
		}
		if v == nil {
			t.Fatalf("there is no %v", path)
		}
	}
	return v
}

// podOf is one of the pods that a document asks for: podman knows no DaemonSet, and names those of a Deployment by itself.
func podOf(t *testing.T, document map[string]any) map[string]any {
	t.Helper()
	metadata := at(t, document, "spec", "template", "metadata").(map[string]any)
	metadata["name"] = at(t, document, "metadata", "name")
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": at(t, document, "spec", "template", "spec")}
}

// commandOf is the command of a container's probe, for podman, which runs none.
func commandOf(t *testing.T, container any, name string) string {
	t.Helper()
	words := ""
	for _, word := range at(t, container, name, "exec", "command").([]any) {
		words += " " + word.(string)
	}
	return words
}

// plays gives documents to podman, which makes what they ask for, and starts no pod of it.
func (p pod) plays(t *testing.T, name string, documents ...map[string]any) {
	t.Helper()
	var text bytes.Buffer
	for _, d := range documents {
		text.WriteString("---\n")
		must(t, json.NewEncoder(&text).Encode(d))
	}
	file := filepath.Join(p.dir, name+".yaml")
	p.write(t, file, "0600", "root:root", text.String())
	p.does(t, "play kube --network host --start=false "+file)
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := p.try(p.podman("pod logs " + name + " 2>&1"))
			t.Logf("the pod's log:\n%s", said)
		}
		p.does(t, "pod rm -f -t 0 "+name)
	})
}

// here are what stands for this place in a manifest: the CA of its EST server, the server's address, the image.
func (p pod) here(t *testing.T) []string {
	t.Helper()
	ca := strings.TrimSpace(strings.ReplaceAll(p.est.file(t, "ca.pem"), "\n", "\n    "))
	return []string{
		"The CA certificate behind the EST server, in PEM, in place of this line.", ca,
		"https://est.example/", "https://" + estIPv4 + ":8085/", "registry.example/certagent:1.0.0", image,
	}
}

// buildApplication makes the image of the application: a shell, with what it needs here.
func (p pod) buildApplication(t *testing.T) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	context := t.TempDir()
	command(t, "install", "-D", busybox, context+"/bin/busybox")
	for _, name := range []string{"sh", "cat", "chmod", "chown", "sleep"} {
		must(t, os.Symlink("busybox", context+"/bin/"+name))
	}
	must(t, os.WriteFile(context+"/Containerfile", []byte(`FROM scratch
COPY bin /bin
ENTRYPOINT ["/bin/sh", "-ec", "cd /var/lib/certagent/certs/device-id/live; cat key.pem fullchain.pem >/dev/null; exec /bin/busybox sleep 1000000"]
`), 0o644))
	p.does(t, "build --isolation chroot -t localhost/application "+context)
}

// application: the sidecar runs first, then the application, which uses the pair.
func (p pod) application(t *testing.T) {
	p.buildApplication(t)
	all := manifest(t, "application.yaml", append(p.here(t), "registry.example/application:1.0.0", "localhost/application:latest")...)
	spec := at(t, all[2], "spec", "template", "spec").(map[string]any)
	// podman knows no sidecars: it is one more container, which is started first, as the kubelet does.
	sidecar := at(t, spec, "initContainers", 0)
	if always := at(t, sidecar, "restartPolicy"); always != "Always" {
		t.Fatalf("it is no sidecar: %v", always)
	}
	delete(sidecar.(map[string]any), "restartPolicy")
	spec["containers"] = append([]any{sidecar}, at(t, spec, "containers").([]any)...)
	delete(spec, "initContainers")
	// podman 4.3 gives Secrets to containers in base64, so that this one is laid out as the kubelet does it.
	login := p.dir + "/login"
	p.write(t, login+"/..1/est-password", "0440", "root:65532", "estpwd")
	p.run(t, "cd "+login+" && ln -s ..1 ..data && ln -s ..data/est-password est-password && chmod 0755 ..1 && chmod 0777 .")
	if secret := at(t, spec, "volumes", 1, "secret", "secretName"); secret != "certagent-login" {
		t.Fatalf("the login is %v", secret)
	}
	at(t, spec, "volumes").([]any)[1] = map[string]any{"name": "login", "hostPath": map[string]any{"path": login, "type": "Directory"}}
	p.plays(t, "application", all[0], all[1], podOf(t, all[2]))
	const pod = "application-"
	// So does a kubelet give a volume to the fsGroup; podman does not know it.
	p.run(t, p.podman(`volume inspect -f '{{.Mountpoint}}' certagent-state`)+` | { read -r dir; chown 0:65532 "$dir"; chmod 2775 "$dir"; }`)
	p.does(t, "start "+pod+"certagent")
	p.until(t, "the startup probe succeeds", func() bool {
		_, code := p.try(p.podman("exec " + pod + "certagent" + commandOf(t, sidecar, "startupProbe")))
		return code == 0
	})
	p.does(t, "exec "+pod+"certagent"+commandOf(t, sidecar, "readinessProbe"))
	if said, code := p.try(p.podman("exec " + pod + "certagent certagent check")); code != 0 {
		t.Errorf("certagent check: exit code %d\n%s", code, said)
	}
	p.does(t, "start "+pod+"application")
	p.until(t, "the application has read its pair", func() bool {
		return p.does(t, "exec "+pod+"application /bin/busybox pidof busybox") != "" &&
			strings.Contains(p.does(t, "top "+pod+"application args"), "sleep 1000000")
	})
	p.does(t, "stop -t 60 "+pod+"certagent")
	if code := p.does(t, "inspect -f '{{.State.ExitCode}}' "+pod+"certagent"); code != "0" {
		t.Errorf("the sidecar ends with %s", code)
	}
}

// gateway: a node's agent, as the DaemonSet starts it on each.
func (p pod) gateway(t *testing.T) {
	bootstrap, state := p.dir+"/bootstrap", p.dir+"/node"
	p.write(t, bootstrap+"/device.pem", "0640", "root:65532", p.est.file(t, "bootstrap.pem"))
	p.write(t, bootstrap+"/device.key.pem", "0640", "root:65532", p.est.file(t, "bootstrap.key.pem"))
	// Not among podman's files: a machine-id in memory does not last, and does not count.
	cache, err := os.UserCacheDir()
	must(t, err)
	machineID := filepath.Join(cache, "certagent", "machine-id-"+rand.Text())
	must(t, os.WriteFile(machineID, []byte(strings.Repeat("4d", 16)+"\n"), 0o444))
	t.Cleanup(func() { os.Remove(machineID) })
	p.run(t, "chgrp 65532 "+bootstrap+" && chmod 0750 "+bootstrap+" && install -d -o 65532 -g 65532 "+state)
	all := manifest(t, "gateway.yaml", append(p.here(t), "path: /etc/certagent/bootstrap,", "path: "+bootstrap+",",
		"path: /var/lib/certagent,", "path: "+state+",", "path: /etc/machine-id,", "path: "+machineID+",")...)
	p.plays(t, "certagent", all[0], podOf(t, all[1]))
	const container = "certagent-certagent"
	p.does(t, "start "+container)
	p.until(t, "it is ready", func() bool {
		_, code := p.try(p.podman("exec " + container + commandOf(t, at(t, all[1], "spec", "template", "spec", "containers", 0), "readinessProbe")))
		return code == 0
	})
	if meta := p.run(t, "cat "+state+"/certs/mqtt/live/meta.json"); !strings.Contains(meta, strings.Repeat("4d", 16)) {
		t.Errorf("it does not know the node:\n%s", meta)
	}
	if owner := p.run(t, "stat -c '%u:%g %a' "+state+"/certs/mqtt/live/key.pem"); owner != "65532:65532 600" {
		t.Errorf("the key: %s", owner)
	}
}

// aVolumeThatEverybodyMayWrite: the agent refuses it, and what README.md has against that helps.
func (p pod) aVolumeThatEverybodyMayWrite(t *testing.T) {
	p.buildApplication(t)
	page, err := os.ReadFile("../../examples/container/README.md")
	must(t, err)
	_, fragment, _ := strings.Cut(string(page), "```yaml")
	fragment, _, found := strings.Cut(fragment, "\n  ```")
	if !found {
		t.Fatal("README.md has no container")
	}
	fragment = strings.ReplaceAll(fragment, "registry.example/busybox:1", "localhost/application:latest")
	const before = "      initContainers:\n"
	all := manifest(t, "application.yaml", before, before+strings.ReplaceAll(fragment, "\n  ", "\n        ")[1:]+"\n")
	spec := at(t, all[2], "spec", "template", "spec").(map[string]any)

	state := p.dir + "/everybodys"
	p.run(t, "install -d -m 0777 "+state)
	once := "run --rm " + confined + p.configuration(t, "") + "-v " + state + ":/var/lib/certagent " + image + " run --once"
	if said := p.fails(t, 1, p.podman(once)); !strings.Contains(said, "chmod o-w") {
		t.Errorf("it says %s", said)
	}
	spec["containers"] = []any{at(t, spec, "initContainers", 0)}
	spec["volumes"] = []any{map[string]any{"name": "state", "hostPath": map[string]any{"path": state, "type": "Directory"}}}
	spec["restartPolicy"] = "Never"
	delete(spec, "initContainers")
	p.plays(t, "application", podOf(t, all[2]))
	p.does(t, "start --attach application-owner")
	p.does(t, once)
}
