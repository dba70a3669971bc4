//go:build system

// Package rig holds the packages to what docs/installation.md promises, on booted systemds: each promise is a test, and
// each is held on each root. The machines are Debians in systemd-nspawn, over a throw-away copy of a root; the EST
// server is on another network. It needs root, on Debian, with what .ci/test-system installs.
//
//	.ci/test-system                              # all
//	.ci/test-system bookworm                     # on one root
//	.ci/test-system bookworm/TheSandboxHolds     # one promise
package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == probeName {
		os.Exit(probe(os.Stderr))
	}
	dir, err := os.MkdirTemp("", "certagent-rig-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// promise is something that holds on every machine.
type promise struct {
	name string
	hold func(t *testing.T, m *machine)
	on   func(r root) bool // where it is made; nil means everywhere
}

// promises in the order of a gateway's life, which is that of one machine. Each makes what it needs and is not there
// yet, and takes away what it made, so that each can be run alone.
var promises = []promise{
	{name: "InstalledAndNotStarted", hold: installedAndNotStarted},
	{name: "StartedUnconfigured", hold: startedUnconfigured},
	{name: "Enrols", hold: enrols},
	{name: "OwnersAndModes", hold: ownersAndModes},
	{name: "CheckIsGreen", hold: checkIsGreen},
	{name: "TheSandboxHolds", hold: theSandboxHolds},
	{name: "TheJournalHasFields", hold: theJournalHasFields},
	{name: "TheNetworkIsNotNeeded", hold: theNetworkIsNotNeeded},
	{name: "ASignalRenews", hold: aSignalRenews},
	{name: "ReloadTakesAGoodFile", hold: reloadTakesAGoodFile},
	{name: "ReloadRefusesABadFile", hold: reloadRefusesABadFile},
	{name: "ABadFileAtTheStart", hold: aBadFileAtTheStart},
	{name: "TheWatchdogRestartsAStuckAgent", hold: theWatchdogRestartsAStuckAgent},
	{name: "KilledItComesBack", hold: killedItComesBack},
	{name: "Credentials", hold: credentials},
	{name: "EncryptedCredentials", hold: encryptedCredentials, on: hasEncryptedCredentials},
	{name: "BootstrapCredentials", hold: bootstrapCredentials},
	{name: "WhatADropInLacks", hold: whatADropInLacks},
	{name: "AConsumerWaits", hold: aConsumerWaits},
	{name: "TheDeployPairReloadsMosquitto", hold: theDeployPairReloadsMosquitto},
	{name: "TheDeployPairStartsWhatHasFailed", hold: theDeployPairStartsWhatHasFailed},
	{name: "ThePolkitRuleReloadsMosquitto", hold: thePolkitRuleReloadsMosquitto, on: hasPolkitRules},
	{name: "ThePolkitRuleReloadsNginx", hold: thePolkitRuleReloadsNginx, on: hasPolkitRules},
	{name: "EveryOutputIsWritten", hold: everyOutputIsWritten},
	{name: "OutputsOfAnotherOwner", hold: outputsOfAnotherOwner},
	{name: "IoTEdgeIsRestarted", hold: iotEdgeIsRestarted},
	{name: "AnApplicationFindsItsHub", hold: anApplicationFindsItsHub},
	{name: "ANarrowNetwork", hold: aNarrowNetwork},
	{name: "AProxy", hold: aProxy},
	{name: "HooksThatNeedMore", hold: hooksThatNeedMore},
	{name: "Metrics", hold: metrics},
	{name: "UpgradeKeepsKeysAndConfiguration", hold: upgradeKeepsKeysAndConfiguration},
	{name: "DowngradeKeepsKeys", hold: downgradeKeepsKeys},
	{name: "AStoppedAgentStaysStopped", hold: aStoppedAgentStaysStopped},
	{name: "RemoveKeepsKeys", hold: removeKeepsKeys},
	{name: "ReinstalledItIsAsItWas", hold: reinstalledItIsAsItWas},
	{name: "PurgeDeletesKeys", hold: purgeDeletesKeys},
	{name: "APreparedGateway", hold: aPreparedGateway},
}

// hasEncryptedCredentials: LoadCredentialEncrypted= came with systemd 250 (examples/systemd/credentials-encrypted.conf
// says so).
func hasEncryptedCredentials(r root) bool { return r.systemd >= 250 }

// hasPolkitRules: polkit 0.105 of Debian 11 knows no rules in JavaScript (examples/systemd/50-certagent.rules says so).
func hasPolkitRules(r root) bool { return r.suite != "bullseye" }

// TestSystem holds every promise on every root.
func TestSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must be root")
	}
	var share string // there once what follows t.Parallel() goes on
	for _, r := range roots {
		t.Run(r.name, func(t *testing.T) {
			made := make(chan error)
			go func() { // ends with the root, which is made while the packages are built
				_, use, err := r.directory(t.Context())
				use.Close() // what was used today is not swept away
				made <- err
			}()
			t.Parallel()
			must(t, <-made)
			if share == "" {
				t.Fatal("there are no packages")
			}
			m := boot(t, r, share)
			m.est = connect(t, m.leader, filepath.Join(share, "certagent-testca"))
			m.hosts(t, estIPv4, estIPv6)
			for _, p := range promises {
				if p.on == nil || p.on(r) {
					t.Run(p.name, func(t *testing.T) { p.hold(t, m) })
				}
			}
		})
	}
	share = build(t)
}
