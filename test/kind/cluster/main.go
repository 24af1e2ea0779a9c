// SPDX-License-Identifier: Apache-2.0

// One program that is every part of a Kubernetes cluster: which one, its own name says (argv[0]). Together they
// are 180 MB and share their text in memory; apart they would be 600 MB. Tests run it; nothing of it is part of
// nodemesh.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"context"
)

func run(command *cobra.Command) func() {
	return func() { os.Exit(cli.Run(command)) }
}

func main() {
	// Each part's command is made only when it is asked for: making one registers flags for all of the process.
	parts := map[string]func(){
		"etcd":                    func() { etcdmain.Main(os.Args) },
		"kube-apiserver":          func() { run(apiserver.NewAPIServerCommand())() },
		"kube-controller-manager": func() { run(controllermanager.NewControllerManagerCommand())() },
		"kube-scheduler":          func() { run(scheduler.NewSchedulerCommand())() },
		"kube-proxy":              func() { run(proxy.NewProxyCommand())() },
		"kubelet":                 func() { run(kubelet.NewKubeletCommand(context.Background()))() },
		"kubectl": func() {
			if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
				kubectlutil.CheckErr(err)
			}
		},
	}
	if part, known := parts[filepath.Base(os.Args[0])]; known {
		part()
		return
	}
	names := make([]string, 0, len(parts))
	for name := range parts {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "call this by one of these names: %s\n", strings.Join(names, ", "))
	os.Exit(64)
}
