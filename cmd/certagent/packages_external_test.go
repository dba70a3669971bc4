//go:build external

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// copyOfTree is the working tree, changes included, as one commit of a certain time in a directory of its own: what is built in
// two of them differs by nothing but the place.
func copyOfTree(t *testing.T, dir string) string {
	t.Helper()
	files := tell(t, "../..", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for _, file := range strings.Split(strings.TrimSuffix(files, "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join("../..", file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, file), fileOf(t, filepath.Join("../..", file)), info.Mode()))
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-q", "-m", "all"}} {
		tell(t, dir, "env", append([]string{"GIT_COMMITTER_DATE=1700000000 +0000", "GIT_AUTHOR_DATE=1700000000 +0000", "git",
			"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	}
	return dir
}

// tell runs a program that must succeed.
func tell(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// packaged is one file of a package.
type packaged struct {
	mode         fs.FileMode // type and permissions
	owner, group string
	data         []byte
}

// ofTar are the files of a tar archive by their absolute paths; those in front that a package manager keeps for itself begin
// with a dot.
func ofTar(t testing.TB, archive io.Reader) map[string]packaged {
	t.Helper()
	all := map[string]packaged{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		name := path.Clean("/" + h.Name)
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = packaged{h.FileInfo().Mode(), h.Uname, h.Gname, data}
	}
}

// ofPackage reads a package of any kind.
func ofPackage(t testing.TB, file string) map[string]packaged {
	t.Helper()
	switch filepath.Ext(file) {
	case ".deb":
		return ofTar(t, strings.NewReader(tell(t, ".", "dpkg-deb", "--fsys-tarfile", file)))
	case ".zst":
		all := ofTar(t, strings.NewReader(tell(t, ".", "zstd", "-dc", file)))
		for name, p := range all { // it knows numbers alone; packaging/arch gives the group
			p.owner, p.group = "root", "root"
			if slices.Contains([]string{"/etc/certagent/config.toml", "/etc/certagent/config.d", "/etc/certagent/bootstrap"}, name) &&
				bytes.Contains(all["/.INSTALL"].data, []byte("chgrp certagent")) && bytes.Contains(all["/.INSTALL"].data, []byte(" "+name)) {
				p.group = "certagent"
			}
			all[name] = p
		}
		return all
	case ".apk":
		z, err := gzip.NewReader(bytes.NewReader(fileOf(t, file)))
		must(t, err)
		return ofTar(t, z)
	}
	// rpm(8) knows the owners, and rpm2archive(8) makes a tar archive of the files.
	all := ofTar(t, strings.NewReader(tell(t, ".", "sh", "-c", `rpm2archive - < "$0" | gzip -dc`, file)))
	listed := tell(t, ".", "rpm", "-qp", "--qf", `[%{FILENAMES} %{FILEUSERNAME} %{FILEGROUPNAME}\n]`, file)
	seen := 0
	for line := range strings.Lines(listed) {
		f := strings.Fields(line)
		p, ok := all[f[0]]
		if !ok {
			t.Errorf("rpm lists %s, and does not have it", f[0])
		}
		p.owner, p.group = f[1], f[2]
		all[f[0]] = p
		seen++
	}
	if seen != len(all) {
		t.Errorf("rpm lists %d of %d files", seen, len(all))
	}
	return all
}

// TestPackages: two builds in two places, for two people and at two times are the same bytes, and what is in them is what docs/installation.md says.
func TestPackages(t *testing.T) {
	var sums []string
	var dist string
	cached := strings.Fields(tell(t, ".", "go", "env", "GOCACHE", "GOMODCACHE", "GOPROXY"))
	for _, place := range []struct {
		dir, umask, zone, locale string
		written                  time.Time // each file of the tree
	}{
		{"a", "022", "Asia/Tokyo", "C", time.Now()},
		{"another/place", "077", "America/St_Johns", "de_DE.UTF-8", time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)},
	} {
		dir := copyOfTree(t, filepath.Join(t.TempDir(), place.dir))
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Chtimes(path, place.written, place.written)
		}))
		// Somebody tries an example where it lies.
		for _, file := range []string{"examples/ansible/files", "examples/systemd", "docs"} {
			must(t, os.MkdirAll(filepath.Join(dir, file), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, file, "of-mine-"+filepath.Base(dir)+".md"), []byte("secret\n"), 0o644))
		}
		// Another home has another git configuration, and no settings of Go's.
		tell(t, dir, "sh", "-c", `umask "$0"; exec env "$@"`, place.umask, "HOME="+t.TempDir(), "TZ="+place.zone, "LC_ALL="+place.locale,
			"TMPDIR="+t.TempDir(), "GOCACHE="+cached[0], "GOMODCACHE="+cached[1], "GOPROXY="+cached[2], "make", "packages", "ARCHES=amd64")
		dist = filepath.Join(dir, "dist")
		sums = append(sums, string(fileOf(t, filepath.Join(dist, "SHA256SUMS"))))
	}
	if sums[0] != sums[1] {
		t.Errorf("the same commit gives\n%s\nand\n%s", sums[0], sums[1])
	}
	tell(t, dist, "sha256sum", "-c", "--quiet", "SHA256SUMS")
	const version = "0.0.0+git20231114221320"
	packages := map[string]bool{
		"certagent_" + version + "-1_amd64.deb":                                 true,
		"certagent-" + version + "-1.x86_64.rpm":                                true,
		"certagent-" + version + "-1-x86_64.pkg.tar.zst":                        true,
		"certagent_" + strings.Replace(version, "+", "_", 1) + "-r1_x86_64.apk": false, // no systemd there
	}
	for file, systemd := range packages {
		t.Run(filepath.Ext(file), func(t *testing.T) {
			checkContents(t, ofPackage(t, filepath.Join(dist, file)), systemd)
		})
	}
	if n := strings.Count(sums[0], "\n"); n != 2*len(packages) {
		t.Errorf("%d packages, want certagent and certagent-testca in %d kinds:\n%s", n, len(packages), sums[0])
	}

	deb := filepath.Join(dist, "certagent_"+version+"-1_amd64.deb")
	if got := tell(t, ".", "dpkg-deb", "-I", deb, "conffiles"); got != "/etc/certagent/config.toml\n" {
		t.Errorf("conffiles of the deb: %s", got)
	}
	rpm := filepath.Join(dist, "certagent-"+version+"-1.x86_64.rpm")
	flags := tell(t, ".", "rpm", "-qp", "--qf", `[%{FILEFLAGS:fflags} %{FILENAMES}\n]`, rpm)
	if !strings.Contains(flags, "cn /etc/certagent/config.toml\n") || strings.Count(flags, "c") < 1 {
		t.Errorf("the rpm's configuration is not %%config(noreplace):\n%s", flags)
	}
	scripts := tell(t, ".", "rpm", "-qp", "--scripts", rpm)
	for _, name := range []string{"pre", "post", "preun", "postun"} {
		if !strings.Contains(scripts, string(fileOf(t, "../../packaging/rpm/"+name))) {
			t.Errorf("the rpm does not run rpm/%s:\n%s", name, scripts)
		}
	}
	arch := ofPackage(t, filepath.Join(dist, "certagent-"+version+"-1-x86_64.pkg.tar.zst"))
	if !bytes.Contains(arch["/.PKGINFO"].data, []byte("backup = etc/certagent/config.toml\n")) {
		t.Errorf("pacman's package:\n%s", arch["/.PKGINFO"].data)
	}
	tell(t, dist, "sh", "-c", "exec lintian --allow-root --fail-on error,warning *.deb")
}

// checkContents compares a package of certagent with what it must be; systemd tells whether units are a part of it.
func checkContents(t *testing.T, all map[string]packaged, systemd bool) {
	t.Helper()
	type right struct {
		mode  fs.FileMode
		group string
	}
	special := map[string]right{
		"/usr/bin/certagent":         {0o755, "root"},
		"/etc/certagent":             {fs.ModeDir | 0o755, "root"},
		"/etc/certagent/config.toml": {0o640, "certagent"},
		"/etc/certagent/config.d":    {fs.ModeDir | 0o750, "certagent"},
		"/etc/certagent/trust":       {fs.ModeDir | 0o755, "root"},
		"/etc/certagent/bootstrap":   {fs.ModeDir | 0o750, "certagent"},
	}
	want := map[string]string{ // by the file in the tree
		"/usr/share/bash-completion/completions/certagent":                         "cmd/certagent/completion/certagent.bash",
		"/usr/share/fish/vendor_completions.d/certagent.fish":                      "cmd/certagent/completion/certagent.fish",
		"/etc/certagent/config.toml":                                               "packaging/config.toml",
		"/usr/share/doc/certagent/docs/installation.md":                            "docs/installation.md",
		"/usr/share/doc/certagent/examples/ansible/roles/certagent/tasks/main.yml": "examples/ansible/roles/certagent/tasks/main.yml",
		"/usr/share/doc/certagent/examples/cloud-init/user-data":                   "examples/cloud-init/user-data",
		"/usr/share/doc/certagent/examples/container/gateway.yaml":                 "examples/container/gateway.yaml",
		"/usr/share/doc/certagent/examples/mosquitto/README.md":                    "examples/mosquitto/README.md",
		"/usr/share/doc/certagent/examples/systemd/50-certagent.rules":             "examples/systemd/50-certagent.rules",
	}
	if !systemd {
		special["/etc/init.d/certagent"] = right{0o755, "root"}
		want["/etc/init.d/certagent"] = "packaging/openrc/certagent"
	} else {
		for _, unit := range []string{"certagent.service", "certagent-deploy@.path", "certagent-deploy@.service"} {
			want["/usr/lib/systemd/system/"+unit] = "packaging/systemd/" + unit
		}
		want["/usr/lib/sysusers.d/certagent.conf"] = "packaging/sysusers.d/certagent.conf"
		want["/usr/lib/tmpfiles.d/certagent-deploy.conf"] = "packaging/tmpfiles.d/certagent-deploy.conf"
	}
	for name, file := range want {
		if !bytes.Equal(all[name].data, fileOf(t, "../../"+file)) {
			t.Errorf("%s is not %s", name, file)
		}
	}
	pages, err := filepath.Glob("../../packaging/man/certagent*.[58]")
	must(t, err)
	for _, page := range pages {
		if name := "/usr/share/man/man" + page[len(page)-1:] + "/" + filepath.Base(page) + ".gz"; !bytes.Equal(unzipped(t, all[name].data), fileOf(t, page)) {
			t.Errorf("%s is not %s", name, page)
		}
	}
	notices := all["/usr/share/licenses/certagent/THIRD-PARTY-NOTICES"].data
	if notices == nil {
		notices = unzipped(t, all["/usr/share/doc/certagent/THIRD-PARTY-NOTICES.gz"].data)
	}
	if !bytes.Equal(notices, fileOf(t, "../../packaging/notices/certagent.txt")) {
		t.Error("the notices are not there")
	}
	here, err := os.Hostname()
	must(t, err)
	secret := regexp.MustCompile(`PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}|` + regexp.QuoteMeta(os.TempDir()) + `/|/root/|/home/[a-z]|\b` +
		regexp.QuoteMeta(here) + `\.`)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p := all[name]
		if strings.HasPrefix(name, "/.") {
			continue // the package manager's
		}
		if strings.HasPrefix(name, "/usr/local") || strings.HasPrefix(name, "/var") || strings.HasPrefix(name, "/run") {
			t.Errorf("%s is not a package's business", name)
		}
		r, ok := special[name]
		if !ok {
			r = right{0o644, "root"}
			if p.mode.IsDir() {
				r.mode = fs.ModeDir | 0o755
			}
		}
		delete(special, name)
		if p.mode != r.mode || p.owner != "root" || p.group != r.group {
			t.Errorf("%s is %v of %s:%s, want %v of root:%s", name, p.mode, p.owner, p.group, r.mode, r.group)
		}
		text := p.data
		if strings.HasSuffix(name, ".gz") {
			text = unzipped(t, text)
		}
		if m := secret.Find(text); m != nil {
			t.Errorf("%s has %q", name, m)
		}
	}
	for name := range special {
		t.Errorf("%s is missing", name)
	}
	checkLinks(t, all)
	program, err := elf.NewFile(bytes.NewReader(all["/usr/bin/certagent"].data))
	must(t, err)
	for _, s := range program.Progs {
		if s.Type == elf.PT_INTERP || s.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has %v: it is not static", s.Type)
		}
	}
	if program.Section(".symtab") != nil {
		t.Error("the program is not stripped")
	}
}

// checkLinks: what a page of the package links to is in the package.
func checkLinks(t *testing.T, all map[string]packaged) {
	t.Helper()
	links := 0
	for name, page := range all {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range regexp.MustCompile(`\]\(([^):#\s]+)(?:#[^)\s]*)?\)`).FindAllSubmatch(page.data, -1) {
			to := path.Join(path.Dir(name), string(m[1]))
			if _, here := all[to]; !here {
				t.Errorf("%s links to %s, which is not in the package", name, to)
			}
			links++
		}
	}
	if links < 40 {
		t.Errorf("only %d links were found", links)
	}
}

func unzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Errorf("read gzip: %v", err)
		return nil
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip tells its file %q and time %v", z.Name, z.ModTime.Format(time.RFC3339))
	}
	text, err := io.ReadAll(z)
	must(t, err)
	return text
}

// TestEveryMachine: the programs can be built for each machine that there are packages for; what fits a number there may not
// fit one here.
func TestEveryMachine(t *testing.T) {
	for _, machine := range []string{"arm64", "arm", "riscv64"} {
		tell(t, "../..", "env", "GOOS=linux", "GOARCH="+machine, "CGO_ENABLED=0", "go", "build", "-o", t.TempDir(), "./cmd/...")
	}
}

// TestMaintainerScripts are such as a shell takes, and say nothing of this machine.
func TestMaintainerScripts(t *testing.T) {
	scripts, err := filepath.Glob("../../packaging/*/*")
	must(t, err)
	n := 0
	for _, script := range scripts {
		switch dir := filepath.Base(filepath.Dir(script)); {
		case dir == "deb" && regexp.MustCompile(`\.(postinst|prerm|postrm)$`).MatchString(script), dir == "rpm", dir == "alpine", dir == "arch",
			dir == "openrc":
			tell(t, ".", "dash", "-n", script)
			n++
		}
	}
	if n < 14 {
		t.Errorf("%d scripts", n)
	}
}

// TestUnitIsSandboxed: systemd takes the unit, with each drop-in that docs/installation.md tells of, and its own measure of
// what a service can do to the system is at most 1.5.
func TestUnitIsSandboxed(t *testing.T) {
	const unit = "../../packaging/systemd/certagent.service"
	tell(t, ".", "systemd-analyze", "security", "--offline=yes", "--threshold=15", unit)
	// What older ones do not know, and pass over.
	newer := regexp.MustCompile(`(?m)^.*Unknown key(?: name)? '(RestartSteps|RestartMaxDelaySec)' in section .*\n`)
	text := strings.ReplaceAll(string(fileOf(t, unit)), "/usr/bin/certagent", "/bin/true")
	dropIns, err := filepath.Glob("../../examples/systemd/*.conf")
	must(t, err)
	// It is for other units.
	dropIns = slices.DeleteFunc(dropIns, func(name string) bool { return filepath.Base(name) == "consumer.conf" })
	if len(dropIns) < 7 {
		t.Errorf("%d drop-ins", len(dropIns))
	}
	for _, dropIn := range append(dropIns, "") {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "certagent.service"), []byte(text), 0o644))
		if dropIn != "" {
			must(t, os.Mkdir(filepath.Join(dir, "certagent.service.d"), 0o755))
			part := strings.ReplaceAll(string(fileOf(t, dropIn)), "/usr/bin/certagent", "/bin/true")
			must(t, os.WriteFile(filepath.Join(dir, "certagent.service.d", filepath.Base(dropIn)), []byte(part), 0o644))
		}
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", filepath.Join(dir, "certagent.service"))
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		said, err := cmd.CombinedOutput()
		if rest := newer.ReplaceAll(said, nil); err != nil || len(rest) > 0 {
			t.Errorf("%s: %v\n%s", fmt.Sprintf("with %q", filepath.Base(dropIn)), err, rest)
		}
	}
}
