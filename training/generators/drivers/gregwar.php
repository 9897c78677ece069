<?php
// gregwar/captcha as Debian packages it.  A line of JSON in, a line of JSON out.

// The library divides floats where PHP 8 expects integers, and warns each time.
error_reporting(E_ALL & ~E_DEPRECATED);
ini_set('display_errors', 'stderr');

require '/usr/share/php/Gregwar/Captcha/autoload.php';

use Gregwar\Captcha\CaptchaBuilder;
use Gregwar\Captcha\PhraseBuilder;

while (($line = fgets(STDIN)) !== false) {
    $request = json_decode($line, true);
    $settings = $request['settings'];
    // Seeds array_rand as well.
    mt_srand($request['seed']);
    $phrases = new PhraseBuilder($settings['length'] ?? 5);
    if (isset($settings['charset'])) {
        $phrases = new PhraseBuilder($settings['length'], $settings['charset']);
    }
    try {
        $builder = new CaptchaBuilder($settings['text'] ?? null, $phrases);
        foreach ($settings['calls'] ?? [] as $method => $arguments) {
            $builder->$method(...$arguments);
        }
        $builder->build($settings['width'] ?? 150, $settings['height'] ?? 40, $settings['face'] ?? null);
        $reply = [
            'image' => base64_encode($builder->get($settings['quality'] ?? 90)),
            'label' => $builder->getPhrase(),
        ];
    } catch (Throwable $error) {
        $reply = ['error' => $error->getMessage()];
    }
    fwrite(STDOUT, json_encode($reply) . "\n");
    fflush(STDOUT);
}
